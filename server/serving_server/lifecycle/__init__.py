"""Version lifecycle: what is on disk, what should be loaded, what is, and who answers a request."""

from __future__ import annotations

from serving_server.lifecycle.crashes import CrashPolicy
from serving_server.lifecycle.manager import Manager
from serving_server.lifecycle.servable import Loader, Servable
from serving_server.lifecycle.source import VersionSource
from serving_server.lifecycle.states import All, Latest, Policy, Specific, State, VersionView, choose

__all__ = [
    "All",
    "CrashPolicy",
    "Latest",
    "Loader",
    "Manager",
    "Policy",
    "Servable",
    "Specific",
    "State",
    "VersionSource",
    "VersionView",
    "choose",
]
