"""A coordinator without memory meets the members of a run: it restores the run from their words.

Functions on a ``Turn``; ``coordinator`` calls them. The members repeat Hello until they are
welcome; each is answered with Recall, to which it answers Recollect. Once a majority of the
newest view is there (``majority``), or one member if the operator said ``--force``, the
coordinator takes over run, view and all, at a higher term, and everybody introduces itself anew.
"""

from __future__ import annotations

import dataclasses

from collectives.membership import formation, restart
from collectives.membership.ledger import Group, Issued, Recollection, Returning
from collectives.membership.majority import Standing, highest_number, highest_term, standing
from collectives.membership.messages import Hello, Identify, Recall, Recollect
from collectives.membership.report import EPOCH_BYTES, decode_epoch
from collectives.membership.turn import Turn, with_item
from collectives.membership.wire import NO_RUN, clip

_NUMBERS = 2**63  # half of what a message holds: all numbers of a run are below it


def must_recall(turn: Turn, hello: Hello) -> bool:
    """Whether this Hello comes from a run that this coordinator could restore.

    It can while it has no view of its own in that group, nor of another run in any.
    """
    if hello.number == 0 or hello.run == NO_RUN:
        return False
    groups = turn.state.groups
    if hello.group in groups and groups[hello.group].number:
        return False
    return hello.run == turn.state.run or not any(group.number for group in groups.values())


def recall(turn: Turn, route: bytes, hello: Hello) -> None:
    """Ask the member what it remembers, and tell it what is missing."""
    turn.set(routes=with_item(turn.state.routes, route, (hello.group, hello.peer)))
    stand = _standing(turn, turn.group(hello.group))
    text = stand.text if stand is not None else "the coordinator does not remember the run"
    turn.send(route, Recall(turn.state.run, clip(text)))


def recollect(turn: Turn, name: str, route: bytes, word: Recollect) -> None:
    """Take a member's word, and restore the run if enough have been heard."""
    group = turn.group(name)
    if group.number or word.view.group != name or not _is_credible(word):
        turn.refuse("message out of place")
        return
    if word.peer not in group.recollections:
        turn.because(f"a member of view {word.view.number} of run {word.run} is back", name)
    entry = Recollection(route, word.run, word, turn.now)
    turn.set_group(name, recollections=with_item(group.recollections, word.peer, entry))
    stand = _standing(turn, turn.group(name))
    if stand is None:
        return
    forced = turn.state.force and bool(stand.present)
    if len(stand.present) >= stand.needed or forced:
        _restore(turn, name, stand)


def _is_credible(word: Recollect) -> bool:
    """Whether a run can go on from there: numbers rise, each member has one rank and its places."""
    view = word.view
    numbers = (word.term, view.term, view.number, word.prepared_term, word.prepared, word.sync)
    once = len({peer.id for peer in view.peers}) == view.size
    placed = all(len(level) == view.size for level in view.places)
    return once and placed and view.rank_of(word.peer) is not None and max(numbers) < _NUMBERS


def check(turn: Turn, name: str) -> None:
    """Forget members that went away again. Called at every tick."""
    group = turn.group(name)
    limit = turn.state.timing.registration
    kept = {p: r for p, r in group.recollections.items() if turn.now - r.at <= limit}
    if len(kept) < len(group.recollections):
        turn.set_group(name, recollections=kept)
        turn.because(f"{len(group.recollections) - len(kept)} former members went away", name)
        formation.settle(turn, name)
    elif group.held and turn.now >= group.held:
        turn.set_group(name, held=0.0)
        formation.settle(turn, name)


def _standing(turn: Turn, group: Group) -> Standing | None:
    return standing(group.recollections, turn.now, turn.state.timing.recollection)


def _restore(turn: Turn, name: str, stand: Standing) -> None:
    group, view, run = turn.group(name), stand.view, stand.run
    words = group.recollections
    sharing = [r.word for r in words.values() if r.run == run and r.word.view.key == view.key]
    term = highest_term(words, run) + 1
    if run == turn.state.run:
        term = max(turn.state.term, term)  # another group of the run was restored before
    _free_group_id(turn, name, view.group_id)
    turn.set(run=run, term=term)
    turn.set_group(
        name,
        id=view.group_id,
        number=highest_number(words, run),
        view=view,
        sync=max(word.sync for word in sharing),
        synced=(view.term, view.number),
        peers={**group.peers, **restart.not_back(view, (), turn.now)},
        returning=Returning(turn.now),
        renew=True,
        issued=_issued(stand.verdict, turn.now),
        recollections={},
        held=0.0,
    )
    # Run, term and the group's number are news to everybody: all must hear Welcome again.
    turn.set(routes={})
    for entry in words.values():
        turn.send(entry.route, Identify())
    count = f"{len(stand.present)} of its {view.size} members"
    turn.because(f"view {view.number} of run {run} is restored by the word of {count}", name)
    if len(stand.present) < stand.needed:
        turn.because(
            "this was no majority (--force): if the others go on elsewhere, the group is split in"
            " two that both believe to be the whole",
            name,
        )


def _issued(word: Recollect | None, now: float) -> Issued | None:
    """The verdict that some may still be waiting for, sealed in the view that it judged."""
    if word is None or len(word.verdict) < EPOCH_BYTES:
        return None
    epoch = decode_epoch(word.verdict[:EPOCH_BYTES])
    text = "by the word of a member that had taken the verdict"
    return Issued(epoch, word.judged_term, word.judged, word.verdict, text, now, now)


def _free_group_id(turn: Turn, name: str, wanted: int) -> None:
    """Give a group that nobody uses yet another number if it has the restored group's."""
    used = {group.id for group in turn.state.groups.values()} | {wanted}
    for other, group in list(turn.state.groups.items()):
        if other != name and group.id == wanted:
            free = next(i for i in range(1, len(used) + 2) if i not in used)
            moved = dataclasses.replace(group, id=free)
            turn.set(groups=with_item(turn.state.groups, other, moved))
