"""The collective calls of a ``Group``: what each takes, returns and raises.

How they come about is ``issue``'s.
"""

from __future__ import annotations

from typing import Any

from collectives._native import lib
from collectives.issue import Issuer, flags_of
from collectives.work import Result, Work


class Operations:
    """What the members of a group do together; see ``Group``."""

    _issuer: Issuer

    def all_reduce(
        self,
        array: Any,
        op: str = "sum",
        *,
        out: Any = None,
        tag: int | None = None,
        timeout: float | None = None,
        atomic: bool = True,
        on_failure: str = "retry",
    ) -> Result:
        """Reduce an array over all members, element by element; all get the same bits.

        Args:
            array: contiguous numpy array or CPU tensor of any shape; the same dtype and number of
                elements on all ranks.
            op: ``"sum"``, ``"avg"``, ``"prod"``, ``"min"`` or ``"max"``. Averages divide once, at
                the end, and round integers toward zero; integer sums wrap around. NaN wins in
                min and max, and -0 is less than +0.
            out: where the result goes, of the same dtype and size; None: in place.
            tag: operations of a tag are matched in their own order; a thread that communicates
                beside others uses its own. None: the untagged order.
            timeout: seconds until ``Timeout``; None: ``Options.timeout``.
            atomic: restore ``array`` if the operation fails in place. False is faster, and implies
                ``on_failure="raise"``.
            on_failure: ``"retry"``: if a member is lost, the others repeat the operation without
                it. ``"raise"``: they all raise ``PeerLost``.

        Returns:
            ``value`` is the array that holds the result, ``contributors`` whose input is in it.

        Raises:
            PeerLost: a member died or left and the operation was not to be repeated. The group is
                broken until all call ``sync()``; so it is after every other error below.
            TooFewPeers: fewer than ``min_size`` members are left.
            Timeout: the message names who is missing.
            MismatchError: ranks called different things; the message says who called what.
            InvalidArgument, UnsupportedError: nothing was sent.
        """
        issuer = self._issuer
        issuer.reduction(array, op, out, tag, timeout, flags_of(atomic, on_failure))
        result = issuer.blocking(array if out is None else out)
        if issuer.step is not None:
            issuer.step.reduced(result)
        return result

    def all_reduce_async(
        self,
        array: Any,
        op: str = "sum",
        *,
        out: Any = None,
        tag: int | None = None,
        timeout: float | None = None,
        atomic: bool = True,
        on_failure: str = "retry",
    ) -> Work:
        """Start an ``all_reduce``; its arguments are those.

        Returns:
            The operation under way; the arrays must not be touched until it has ended.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: the group is broken already.
                Waiting raises what ``all_reduce`` raises.
            InvalidArgument, UnsupportedError: nothing was sent.
        """
        self._issuer.reduction(array, op, out, tag, timeout, flags_of(atomic, on_failure))
        return self._issuer.issue(array if out is None else out, (array, out))

    def broadcast(
        self,
        array: Any,
        root: int = 0,
        *,
        tag: int | None = None,
        timeout: float | None = None,
        atomic: bool = True,
        on_failure: str = "retry",
    ) -> Result:
        """Copy the root's array into everybody's, in place.

        Args:
            array: contiguous numpy array or CPU tensor; the same dtype and number of elements on
                all ranks. Read on the root, written elsewhere.
            root: the rank whose array it is.
            tag: as in ``all_reduce``.
            timeout: as in ``all_reduce``.
            atomic: as in ``all_reduce``.
            on_failure: as in ``all_reduce``; without its root it is not repeated in any case.

        Returns:
            ``value`` is the array; ``contributors`` is the root alone.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted, InvalidArgument,
                UnsupportedError: as ``all_reduce``.
        """
        self._issuer.copying(array, root, tag, timeout, flags_of(atomic, on_failure))
        return self._issuer.blocking(array)

    def broadcast_async(
        self,
        array: Any,
        root: int = 0,
        *,
        tag: int | None = None,
        timeout: float | None = None,
        atomic: bool = True,
        on_failure: str = "retry",
    ) -> Work:
        """Start a ``broadcast``; its arguments are those.

        Returns:
            The operation under way; the array must not be touched until it has ended.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: the group is broken already.
            InvalidArgument, UnsupportedError: nothing was sent.
        """
        self._issuer.copying(array, root, tag, timeout, flags_of(atomic, on_failure))
        return self._issuer.issue(array, (array,))

    def barrier(
        self, *, tag: int | None = None, timeout: float | None = None, on_failure: str = "retry"
    ) -> Result:
        """Return once every member has called it.

        Args:
            tag: as in ``all_reduce``.
            timeout: as in ``all_reduce``.
            on_failure: as in ``all_reduce``.

        Returns:
            ``value`` is None; ``contributors`` are all members.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: as ``all_reduce``.
        """
        self._issuer.prepare(lib.COLL_BARRIER, tag, timeout).flags = flags_of(True, on_failure)
        return self._issuer.blocking(None)

    def barrier_async(
        self, *, tag: int | None = None, timeout: float | None = None, on_failure: str = "retry"
    ) -> Work:
        """Start a ``barrier``; its arguments are those.

        Returns:
            The operation under way.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: the group is broken already.
        """
        self._issuer.prepare(lib.COLL_BARRIER, tag, timeout).flags = flags_of(True, on_failure)
        return self._issuer.issue(None, ())
