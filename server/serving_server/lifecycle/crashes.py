"""When a crashed worker is started again, and when the server gives up."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CrashHistory", "CrashPolicy"]


@dataclass(frozen=True, slots=True)
class CrashPolicy:
    """Limits on restarts.

    Parameters
    ----------
    max_crashes : int
        More crashes than this within `window` seconds end the version.
    window : float
        Seconds. A version that has stayed up this long starts with a clean history.
    backoff : float
        Seconds before the second restart, doubled for each further one; the first restart is immediate.
    max_backoff : float
        Upper limit of that delay in seconds.
    """

    max_crashes: int = 5
    window: float = 60.0
    backoff: float = 1.0
    max_backoff: float = 30.0


class CrashHistory:
    """Crashes of one version since it last stayed up for a whole window. Times are seconds of one steady clock."""

    __slots__ = ("_policy", "_run", "_times")

    def __init__(self, policy: CrashPolicy) -> None:
        self._policy = policy
        self._times: list[float] = []
        self._run = 0  # crashes in a row, also those that have left the window

    def clear(self) -> None:
        """Forget everything."""
        self._times.clear()
        self._run = 0

    def add(self, now: float, up_since: float | None) -> float | None:
        """Note a crash at `now` of a worker that was up since `up_since` (None: a restart that failed).

        Returns
        -------
        float or None
            Seconds to wait before the next restart; None when there must be none.
        """
        policy = self._policy
        if up_since is not None and now - up_since >= policy.window:
            self.clear()
        self._run += 1
        self._times = [*(time for time in self._times if now - time < policy.window), now]
        if len(self._times) > policy.max_crashes:
            return None
        if self._run == 1:
            return 0.0
        # The exponent is bounded so that a version that fails slowly for weeks cannot overflow a float.
        return float(min(policy.max_backoff, policy.backoff * 2.0 ** min(self._run - 2, 60)))

    def __len__(self) -> int:
        """Return the number of crashes within the window."""
        return len(self._times)
