"""The run's state for people and programs: what ``collectives status`` shows. Pure."""

from __future__ import annotations

import json
from typing import Any

from collectives.membership.admission import missing_peers, next_peers, peers_text
from collectives.membership.ledger import CoordinatorState, Group
from collectives.membership.majority import standing
from collectives.membership.view import View
from collectives.membership.wire import MAX_TO_PEER, SHOWN


def snapshot(state: CoordinatorState, now: float) -> dict[str, Any]:
    """A JSON-able picture of the state; it holds no key, token or seed.

    Returns:
        ``{"run", "term", "groups": [...], "refused": {reason: count}}``, a group being
        ``{"name", "id", "situation", "view", "waits_for", "peers", "broken", "reasons"}``. Ages
        (``heard``, ``at``) are in seconds before now.
    """
    groups = sorted(state.groups.values(), key=lambda group: group.name)
    return {
        "run": str(state.run),
        "term": state.term,
        "token": bool(state.token),
        "groups": [_group(state, group, now) for group in groups],
        "refused": dict(sorted(state.refused.items())),
    }


def snapshot_json(state: CoordinatorState, now: float) -> bytes:
    """``snapshot`` as UTF-8 JSON that fits a message; a run too large loses its details."""
    picture = snapshot(state, now)
    data = json.dumps(picture).encode()
    if len(data) > MAX_TO_PEER - 4096:
        for group in picture["groups"]:
            group["peers"], group["reasons"] = [], []
        data = json.dumps(picture).encode()
    if len(data) > MAX_TO_PEER - 4096:
        picture["groups"] = []
        data = json.dumps(picture).encode()
    return data


def _group(state: CoordinatorState, group: Group, now: float) -> dict[str, Any]:
    view, coming = group.view, group.preparing
    members = {peer.id for peer in group.members}
    ranks = {peer.id: rank for rank, peer in enumerate(view.peers)} if view else {}
    in_coming = {peer.id for peer in coming.view.peers} if coming else set()
    peers = []
    for peer in (*group.members, *group.newcomers):
        registered = group.peers[peer.id]
        if coming is not None and peer.id in in_coming:
            doing = "connected" if peer.id in coming.ready else "connecting"
        elif not registered.route:
            doing = "not back yet"
        elif peer.id in members:
            doing = "in sync()" if peer.id in group.reached else "running"
        else:
            doing = "fetching the state" if view and registered.filling else "waiting"
        peers.append(
            {
                "id": str(peer.id),
                "name": peer.name,
                "rank": ranks.get(peer.id),
                "unit": peer.unit,
                "site": peer.site,
                "addresses": list(peer.addresses),
                "doing": doing,
                "heard": round(now - registered.heard, 3),
            }
        )
    return {
        "name": group.name,
        "id": group.id,
        "situation": _situation(group),
        "view": None if view is None else _view(view),
        "preparing": None if coming is None else coming.view.number,
        "waits_for": _returns(state, group, now) + _waits_for(group),
        "peers": peers,
        "broken": "" if group.broken is None else group.broken.text,
        "reasons": [{"at": round(now - r.at, 3), "text": r.text} for r in group.reasons],
    }


def _view(view: View) -> dict[str, Any]:
    return {
        "number": view.number,
        "size": view.size,
        "places": [list(level) for level in view.places],
        "table": [[row.kind, row.bytes, row.algorithm] for row in view.table],
        "levels": [[level.plan, level.transport, level.codec] for level in view.levels],
    }


def _situation(group: Group) -> str:
    if group.preparing is not None:
        return f"preparing view {group.preparing.view.number}"
    if group.view is None and group.recollections:
        return "its members are coming back to a coordinator that does not remember them"
    if group.view is None:
        return "waiting for peers"
    if group.returning is not None:
        return f"view {group.view.number}, its members are coming back after a restart"
    if group.round is not None:
        return f"view {group.view.number}, deciding in round {group.round.epoch.round}"
    if group.reached:
        return f"view {group.view.number}, {len(group.reached)} of {len(group.members)} in sync()"
    return f"view {group.view.number}, running"


def _returns(state: CoordinatorState, group: Group, now: float) -> list[str]:
    """Who has to come back to a restarted coordinator before it goes on, one sentence each."""
    waits = []
    if group.returning is not None:
        left = max(0.0, group.returning.since + state.timing.registration - now)
        absent = [peer.name for peer in group.members if not group.peers[peer.id].route]
        names = ", ".join(absent[:SHOWN])
        waits.append(f"the restarted coordinator waits {left:.0f} s more for {names} to come back")
    remembered = standing(group.recollections, now, state.timing.recollection)
    if remembered is not None:
        waits.append(remembered.text)
    return waits


def _waits_for(group: Group) -> list[str]:
    """For whom whom is waited, one sentence each."""
    waits = []
    coming = group.preparing
    if coming is not None:
        named = {peer.id: peer.name for peer in coming.view.peers}
        for peer in coming.view.peers:
            if peer.id not in coming.ready:
                waits.append(f"view {coming.view.number} waits for {peer.name} to connect")
        for (here, there), failure in coming.failed.items():
            waits.append(f"{named[here]} cannot reach {named[there]}: {failure.text}")
        return waits
    if group.round is not None:
        for peer in group.members:
            if peer.id not in group.round.reports:
                waits.append(f"round {group.round.epoch.round} waits for {peer.name} to report")
        return waits
    peers = next_peers(group)
    missing = missing_peers(group, peers)
    if missing and (group.view is None or group.reached):
        waits.append(f"the group waits for {peers_text(missing)}")
    if group.view is not None:
        absent = [peer.name for peer in group.members if peer.id not in group.reached]
        if absent and group.reached:
            present = [peer.name for peer in group.members if peer.id in group.reached]
            waits.append(f"{', '.join(present)} in sync() wait for {', '.join(absent)}")
        if group.newcomers:
            waiting = ", ".join(peer.name for peer in group.newcomers)
            waits.append(f"{waiting} wait for the members' next sync()")
    return waits
