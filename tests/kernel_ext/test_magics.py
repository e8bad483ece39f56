"""`%serve` in an IPython shell, against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import serving_workbench as sw
from serving_workbench.records import record_path
from tests.kernel_ext.conftest import Session

SetVariables = Callable[..., None]


# --- loading -------------------------------------------------------------------------------------------------------

_LOAD = """
import json, sys, time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
start = time.perf_counter()
shell.run_line_magic("load_ext", "serving_workbench")
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "modules": sorted(sys.modules)}))
"""


def test_loading_is_light(record_property: pytest.RecordProperty) -> None:
    done = subprocess.run([sys.executable, "-c", _LOAD], capture_output=True, text=True, timeout=60, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    record_property("load_seconds", answer["seconds"])
    print(f"%load_ext took {answer['seconds']:.3f} s")
    assert not {"tensorflow", "keras", "grpc", "pandas", "numpy"} & set(answer["modules"])


def matchers_of(shell: InteractiveShell) -> int:
    return len(shell.Completer.custom_matchers)


def test_loading_twice_changes_nothing(session: Session) -> None:
    before = matchers_of(session.shell)
    session.run("%load_ext serving_workbench")
    session.run("import serving_jupyter; serving_jupyter.load_ipython_extension(get_ipython())")
    session.run("%reload_ext serving_workbench")
    assert matchers_of(session.shell) == before == 1
    assert "%serve status" in session.says("%serve")


def test_unloading_takes_everything_back(session: Session) -> None:
    session.run("%unload_ext serving_workbench")
    assert matchers_of(session.shell) == 0
    assert "UsageError: Line magic function `%serve` not found." in session.error_of_ipython("%serve")
    session.run("%load_ext serving_workbench")
    assert "%serve status" in session.says("%serve")


# --- help ----------------------------------------------------------------------------------------------------------


def test_help(session: Session) -> None:
    page = session.says("%serve --help")
    assert page == session.says("%serve") == session.says("%serve model -h")
    part = session.says("%serve stop -h")
    assert part.startswith("usage: %serve stop ")
    assert part.strip() not in page, "a page of its own"
    assert "%serve status" not in part
    described = session.shell.object_inspect_text("%serve")
    assert "%serve model --name digits" in described
    assert "--tolerance X" in described


# --- what needs no server ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%serve modl", "%serve: 'modl' is no variable, no folder and no sub-command; did you mean 'model'?"),
        ("%serve staus", "'staus' is no variable, no folder and no sub-command; did you mean 'status'?"),
        ("%serve staus digits", "'staus' is no variable, no folder and no sub-command; did you mean 'status'?"),
        ("%serve xyzzy", "no sub-command. %serve? shows what it takes."),
        ("%serve model name", "unexpected argument 'name'; did you mean --name name?"),
        ("%serve model --nmae x", "there is no flag --nmae; did you mean '--name'?"),
        ("%serve model --timeout soon", "'soon' is not a positive number of seconds"),
        ("%serve model --sample rows", "there is no variable 'rows' for --sample; did you mean 'row'?"),
        ("%serve model --sample row[:1]", "there is no variable 'row[:1]' for --sample; an expression goes in braces"),
        ("%serve model --sample 5", "there is no variable '5' for --sample; an expression goes in braces"),
        ("%serve {undefined}", "undefined fails: NameError: name 'undefined' is not defined"),
        ("%serve {model", "The brace is not closed: {model"),
        ("%serve 'model", "The quote ' is not closed: 'model"),
        ("%serve {object()}", "this model has no name of its own; give it one with --name"),
        ("%serve stop digits --all", "%serve stop: give a model's name or --all, not both."),
        ("%serve status --instance t0", "No server of instance 't0' is running. Start one with"),
        ("%serve status digits --instance t0", "No server of instance 't0' is running."),
        ("%serve warmup digits --instance t0", "No server of instance 't0' is running."),
        ("%serve rollback --instance t0", "No server of instance 't0' is running."),
        ("%serve logs --instance t0", "No server of instance 't0' has a log in"),
        ("%serve status --instance a/b", "'a/b' is not an instance name."),
    ],
)
def test_an_error_is_one_line(session: Session, set_variables: SetVariables, line: str, message: str) -> None:
    set_variables(model=Path("model"), row=np.zeros(3))
    assert message in session.error(line)


def test_stopping_what_does_not_run_is_no_error(session: Session) -> None:
    assert session.says("%serve stop --instance t0") == "No server 't0' was running.\n"


def test_the_rest_of_a_long_message_comes_before_the_line(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        error = sw.LaunchError("It ended. Its log ends with:\nline 1\nline 2", step="launch", hint="Try again.")
        error.add_note("And a note")
        raise error

    monkeypatch.setattr(sw, "status", fail)
    result = session.shell.run_cell("%serve status")
    assert isinstance(result.error_in_exec, UsageError)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "line 1",
        "line 2",
        "UsageError: launch: It ended. Its log ends with: Try again. And a note.",
    ]


def test_a_short_message_of_several_lines_is_one_line(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise sw.ControlError('JSON Value: {\n    "instances": 1\n} not formatted correctly.', code="INVALID_ARGUMENT")

    monkeypatch.setattr(sw, "status", fail)
    assert session.error("%serve status") == 'JSON Value: { "instances": 1 } not formatted correctly.'


def test_a_bug_keeps_its_traceback(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("bug")

    monkeypatch.setattr(sw, "status", fail)
    result = session.shell.run_cell("%serve status")
    assert isinstance(result.error_in_exec, KeyError)


# --- with a server -------------------------------------------------------------------------------------------------


def test_serving_a_folder(session: Session, set_variables: SetVariables, half: str, models_dir: Path) -> None:
    set_variables(instance=half, folder=models_dir / "half_plus_two")
    session.capture.readouterr()
    served = session.run("%serve {folder / '1'} --instance {instance} --no-progress")
    assert session.capture.readouterr().out.startswith("Serving as 'half_plus_two', its folder.")
    assert (served.name, served.version) == ("half_plus_two", 1)
    assert served.predict(np.float32([2.0])).tolist() == [3.0]
    # The same by a variable, with a name, kept: the next version, of the highest in the folder.
    session.run("handle = %serve folder --name half_plus_two --instance {instance} --sample {[1.0]}")
    handle = session.shell.user_ns["handle"]
    assert handle.version == 2
    assert handle.predict(np.float32([2.0])).tolist() == [4.0]
    shown = session.shell.display_formatter.format(handle)[0]
    assert handle.grpc_endpoint in shown["text/plain"]
    assert handle.rest_url in shown["text/html"]
    for each in (served, handle):
        each.server.close()


def test_odd_characters_in_quotes(
    session: Session, set_variables: SetVariables, half: str, model_copy: Callable[..., Path], tmp_path: Path
) -> None:
    set_variables(instance=half)
    folder = model_copy("half_plus_two", base=tmp_path / "it's {odd} ü")
    note = "97 % {not evaluated}; it's #1 = \\"
    quoted = note.replace("\\", "\\\\")
    session.run(f'served = %serve "{folder}" --name odd --note="{quoted}" --instance {{instance}} --no-progress')
    served = session.shell.user_ns["served"]
    assert served.history()["note"].tolist() == [note]
    session.run("again = %serve {served.describe()['versions'][0]['path']} --name=odd --instance={instance}")
    assert session.shell.user_ns["again"].version == 2
    for handle in (served, session.shell.user_ns["again"]):
        handle.server.close()


def test_a_variable_named_like_a_sub_command(
    session: Session, set_variables: SetVariables, half: str, models_dir: Path
) -> None:
    set_variables(instance=half, status=str(models_dir / "half_plus_two/1"))
    assert "half" in repr(session.run("%serve status --instance {instance}"))
    served = session.run("%serve {status} --name other --instance {instance}")
    assert served.name == "other"
    served.server.close()


def test_status_and_rollback(session: Session, set_variables: SetVariables, half: str, models_dir: Path) -> None:
    set_variables(instance=half, folder=models_dir / "half_plus_two/2")
    served = session.run("%serve folder --name two --instance {instance}")
    assert session.error("%serve rollback two --instance {instance}") == (
        "detect: 'two' has no version before 1 to roll back to; its versions are 1."
    )
    session.run("handle = %serve folder --name two --instance {instance}")
    assert "say which model; the server serves: half, two" in session.error("%serve rollback --instance {instance}")
    table = session.run("%serve rollback two --instance {instance}")
    assert table.title == "two: version 1 answers (before: 2)"
    assert served.serving_version == 1
    table = session.run("%serve rollback --to {1 + 1} --instance {instance} two")
    assert table.title == "two: version 2 answers (before: 1)"
    assert "has no version 9" in session.error("%serve rollback two --to 9 --instance {instance}")
    assert "AVAILABLE" in repr(session.run("%serve status two --instance {instance}"))
    names = {row["model"] for row in session.run("%serve status --instance {instance}").rows}
    assert names == {"half", "two"}
    error = session.error("%serve status three --instance {instance}")
    assert error.startswith("The server 'magics' does not serve a model 'three'; its models are 'half', 'two'.")
    for handle in (served, session.shell.user_ns["handle"]):
        handle.server.close()


def test_a_failed_deploy_is_one_line_and_the_old_version_stays(
    session: Session, set_variables: SetVariables, half: str, models_dir: Path
) -> None:
    set_variables(instance=half, plain=models_dir / "no_signatures/1", unknown=object())
    assert session.error("%serve /no/such/folder --instance {instance}").startswith("export: ")
    assert "signature" in session.error("%serve plain --name half --instance {instance}")
    assert "Cannot serve an object of type" in session.error("%serve unknown --instance {instance}")
    assert "Model name 'a b' contains ' '" in session.error("%serve plain --name 'a b' --instance {instance}")
    served = sw.connect("half", half)
    assert served.serving_version == served.version == 1


def test_warmup_is_recorded_and_kept_by_the_next_version(
    session: Session, set_variables: SetVariables, half: str, models_dir: Path
) -> None:
    set_variables(instance=half, folder=models_dir / "half_plus_two/2", rows=np.float32([1.0]))
    session.run("handle = %serve folder --name warmed --instance {instance} --no-progress")
    assert "say which model; the server serves: half" in session.error("%serve warmup --instance {instance}")
    assert session.error("%serve warmup three --instance {instance}").startswith("The server 'magics' does not serve")
    assert session.error("%serve warmup warmed --version 9 --instance {instance}").startswith(
        "The server 'magics' cannot record 'warmed': "
    )
    assert session.error("%serve warmup warmed --requests 1001 --instance {instance}") == (
        "requests is 1001; it must be a whole number from 1 to 1000."
    )
    silent = session.error("%serve warmup warmed --seconds 0.05 --instance {instance}")
    assert "answered no request within 0.05 s; nothing was written" in silent
    served = session.shell.user_ns["handle"]
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            served.predict(np.float32([1.0]))

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            said = session.says("%serve warmup warmed --requests 10 --seconds 30 --instance {instance}")
        finally:
            stop.set()
        asking.result(30)
    first, second = said.splitlines()
    assert first == "Recording up to 10 requests to 'warmed', for 30 s at most."
    assert second.startswith("3 of 10 requests recorded as warm-up of version 1: ")
    recorded = Path(second.split(": ")[1])
    assert "--replace" in session.error("%serve warmup warmed --seconds 0.05 --instance {instance}")
    session.run("next = %serve folder --name warmed --warmup previous --instance {instance} --no-progress")
    kept = recorded.parents[2] / "2" / "assets.extra" / recorded.name
    assert kept.read_bytes() == recorded.read_bytes()
    assert session.error("%serve folder --name warmed --warmup no/file --instance {instance}") == (
        "export: Cannot warm up with 'no/file': No such file or directory. "
        "Give a TFRecord file of PredictionLog messages, as record_warmup and request logs write them."
    )
    session.run("third = %serve folder --name warmed --warmup {rows} --instance {instance} --no-progress")
    assert (recorded.parents[2] / "3" / "assets.extra" / recorded.name).stat().st_size < kept.stat().st_size
    for name in ("handle", "next", "third"):
        session.shell.user_ns[name].server.close()


def test_logs_show_as_text(session: Session, set_variables: SetVariables, half: str) -> None:
    set_variables(instance=half)
    text = session.run("%serve logs --instance {instance}")
    assert repr(text) == str(text) == sw.logs(50, half)
    assert len(session.run("%serve logs -n 1 --instance {instance}").splitlines()) == 1
    lines = session.run("%serve logs half --instance {instance}").splitlines()
    assert lines
    assert all("half" in line for line in lines)
    assert session.run("%serve logs hal --instance {instance}") == ""


def test_stop_one_then_all(session: Session, set_variables: SetVariables, models_dir: Path, tmp_path: Path) -> None:
    set_variables(root=tmp_path / "models", folder=models_dir / "half_plus_two/1")
    session.run("a = %serve folder --name a --root {root} --instance t1 --no-progress")
    session.run("b = %serve folder --name b --instance t1 --no-progress")
    handles = [session.shell.user_ns[name] for name in "ab"]
    assert handles[0].server.models() == ["a", "b"]
    assert session.says("%serve stop a --instance t1") == "Stopped serving 'a'.\n"
    assert handles[0].server.models() == ["b"]
    assert session.says("%serve stop --instance t1") == "Stopped the server 't1'.\n"
    assert session.says("%serve stop --instance t1") == "No server 't1' was running.\n"
    assert not handles[1].server.is_running()
    assert not record_path("t1").exists()
    for handle in handles:
        handle.server.close()


def test_the_panel(session: Session) -> None:
    panel = session.run("%serve panel --instance nowhere")
    assert "No server of instance 'nowhere' is running." in repr(panel)
    panel.close()
