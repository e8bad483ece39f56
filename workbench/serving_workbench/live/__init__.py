"""What every live dashboard is made of: one thread that asks, a widget that shows, actions that hold up nobody.

Each version of ipykernel runs a widget's callbacks elsewhere: in the main thread after the running cell, or in a thread
beside it with an event loop of its own. So nothing here belongs to a thread or a loop: callbacks start something and
return, and the one poller thread assigns traits of widgets, which every version passes on at once.
"""

from __future__ import annotations

from serving_workbench.live.actions import Actions
from serving_workbench.live.poller import Poller
from serving_workbench.live.view import LiveView

__all__ = ["Actions", "LiveView", "Poller"]
