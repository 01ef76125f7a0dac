"""Shared state: what all members of a group hold identically, and how those who lack it get it.

shared     ``SharedState``, what users see
content    what a state consists of, in chunks with digests: the manifest
election   whose state counts, as a pure function of what all say about theirs
plan       which chunk comes from which source, and whether packed: pure, too
transfer   carries a plan out
intake     where what comes belongs, and what has come
service    answers the requests of others
phase      the part of ``Group.sync`` that makes the state identical
filling    what a newcomer fetches before it is admitted
"""

from __future__ import annotations

from collectives.state.shared import Role, SharedState

__all__ = ["Role", "SharedState"]
