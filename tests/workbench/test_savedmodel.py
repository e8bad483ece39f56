"""Reading SavedModels without TensorFlow, and refusing those that cannot be served."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from serving_server.wire.messages import SavedModel
from serving_workbench import savedmodel
from serving_workbench.errors import ExportError
from serving_workbench.export import export_model
from tests.workbench.test_publish import as_ordinary_user, shared_tmp

__all__ = ["shared_tmp"]


@pytest.fixture
def copy(models_dir: Path, tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        return Path(shutil.copytree(models_dir / name / "1", tmp_path / name))

    return make


def test_signatures_with_dtypes_and_shapes(models_dir: Path) -> None:
    found = savedmodel.validate(models_dir / "multi" / "1")
    assert set(found) == {"serving_default", "matrix", "join"}
    assert found["matrix"].inputs["m"].shape == (-1, 3)
    assert found["join"].outputs["length"].dtype is not None
    assert savedmodel.default_signature_name(found) == "serving_default"


@pytest.mark.parametrize("name", ["half_plus_two", "half_plus_two_tf2", "echo_all_dtypes", "digits", "no_batch_dim"])
def test_real_models_pass(models_dir: Path, name: str) -> None:
    assert "serving_default" in savedmodel.validate(models_dir / name / "1")


def test_no_signatures_says_how_to_add_one(models_dir: Path) -> None:
    with pytest.raises(ExportError) as caught:
        savedmodel.validate(models_dir / "no_signatures" / "1")
    assert "no signature" in str(caught.value)
    assert "@tf.function(input_signature=" in str(caught.value)
    assert "model.export(path)" in str(caught.value)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="There is no folder"):
        savedmodel.validate(tmp_path / "nowhere")
    with pytest.raises(ExportError, match="There is no folder"):
        savedmodel.validate(tmp_path / "no" / "where")
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="There is no folder"):
        savedmodel.validate(tmp_path / "file" / "below")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"there is no saved_model\.pb \(it is empty\)"):
        savedmodel.validate(tmp_path)


def test_another_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_bytes(b"zip")
    with pytest.raises(ExportError, match=r"keras\.saving\.load_model"):
        savedmodel.validate(tmp_path / "model.keras")
    with pytest.raises(ExportError, match=r"it holds model\.keras"):
        savedmodel.validate(tmp_path)


def test_text_form(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pbtxt").write_text("")
    with pytest.raises(ExportError, match="text form"):
        savedmodel.validate(tmp_path)


def test_a_cut_off_file(copy: Callable[[str], Path]) -> None:
    path = copy("half_plus_two")
    file = path / "saved_model.pb"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ExportError, match="not a SavedModel, or is cut off"):
        savedmodel.validate(path)


@pytest.mark.parametrize("missing", ["variables.index", "variables.data-00000-of-00001"])
def test_half_copied_variables(copy: Callable[[str], Path], missing: str) -> None:
    path = copy("half_plus_two")
    (path / "variables" / missing).unlink()
    with pytest.raises(ExportError, match=f"incomplete: .*{missing}' is missing"):
        savedmodel.validate(path)


def test_another_tag_set(copy: Callable[[str], Path]) -> None:
    path = copy("half_plus_two")
    model = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    model.meta_graphs[0].meta_info_def.tags[:] = ["train"]
    (path / "saved_model.pb").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"only \[\['train'\]\]"):
        savedmodel.validate(path)


@pytest.mark.parametrize("what", ["saved_model.pb", "variables/variables.index", "variables"])
def test_unreadable_parts_are_named_with_their_bits(models_dir: Path, shared_tmp: Path, what: str) -> None:
    path = Path(shutil.copytree(models_dir / "half_plus_two" / "1", shared_tmp / "m"))
    for part in path.rglob("*"):
        part.chmod(0o755 if part.is_dir() else 0o644)
    (path / what).chmod(0o200)
    with as_ordinary_user(), pytest.raises(ExportError) as caught:
        savedmodel.validate(path)
    (path / what).chmod(0o755)
    assert str(path / what) in str(caught.value)
    assert "(0200)" in str(caught.value)
    assert "chmod" in str(caught.value)


def test_a_broken_link(copy: Callable[[str], Path]) -> None:
    path = copy("half_plus_two")
    (path / "assets.txt").symlink_to(path / "gone")
    with pytest.raises(ExportError, match="broken link"):
        savedmodel.validate(path)


def test_a_path_is_copied_and_a_base_folder_means_its_highest_version(models_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    exported = export_model(models_dir / "half_plus_two", target)
    assert (exported.kind, exported.references) == ("path", {})
    source = models_dir / "half_plus_two" / "2"
    assert (target / "saved_model.pb").read_bytes() == (source / "saved_model.pb").read_bytes()
    assert (target / "variables" / "variables.index").exists()


def test_a_bad_path_is_reported_under_its_own_name(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(ExportError, match=r"/nowhere'"):
        export_model(str(tmp_path / "nowhere"), target)


def test_signatures_go_with_a_module_only(models_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"goes with a tf\.Module only"):
        export_model(models_dir / "multi", tmp_path, {"f": None})


@pytest.mark.parametrize("thing", [object(), 3, None, [1, 2], lambda x: x])
def test_other_things_are_refused_with_what_is_taken(tmp_path: Path, thing: object) -> None:
    with pytest.raises(ExportError, match=r"Give a Keras 3 model, a tf\.Module, a dict"):
        export_model(thing, tmp_path)
