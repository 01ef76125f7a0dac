"""The collective calls of a ``Group``: what each takes, returns and raises.

How they come about is ``issue``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from collectives import blocks, packing, sparse
from collectives._native import lib
from collectives.blocks import Common
from collectives.codec import Codec
from collectives.issue import Issuer, ScaledSum, flags_of
from collectives.work import Result, Work


class Operations:
    """What the members of a group do together; see ``Group``."""

    _issuer: Issuer

    def all_reduce(
        self,
        array: Any,
        op: str | ScaledSum = "sum",
        *,
        out: Any = None,
        tag: int | None = None,
        timeout: float | None = None,
        algorithm: str | None = None,
        atomic: bool = True,
        on_failure: str = "retry",
        codec: str | Codec | None = None,
        residual: Any = None,
    ) -> Result:
        """Reduce an array over all members, element by element; all get the same bits.

        Args:
            array: numpy array or CPU tensor of any shape and strides, or a list of them, which is
                reduced as if it were one; the same dtype and number of elements on all ranks, in
                the order of their indices.
            op: ``"sum"``, ``"avg"``, ``"prod"``, ``"min"``, ``"max"``, or of integers and bool
                ``"band"``, ``"bor"`` or ``"bxor"``, bit by bit. Averages divide once, at the end,
                and round integers toward zero; integer sums wrap around. NaN wins in min and max,
                and -0 is less than +0. A sum of bool is true if one of them is, a product if all
                are; there is no average. Of floats also ``collectives.scaled_sum(factor)``, the sum
                of the inputs times the ranks' factors.
            out: where the result goes, an array or a list of the same dtype and size; None: in
                place.
            tag: operations of a tag are matched in their own order; a thread that communicates
                beside others uses its own. None: the untagged order.
            timeout: seconds until ``Timeout``; None: ``Options.timeout``.
            algorithm: how it is carried out, the same on all ranks: ``"ring"``, ``"direct"``,
                ``"whole"``, ``"chain"``, ``"star"``, ``"bidirectional_ring"``, ``"doubling"`` or
                ``"hierarchical"``, if it does this operation; None: chosen by the operation and
                its bytes. The order of additions depends on it.
            atomic: restore ``array`` if the operation fails in place. False is faster, and implies
                ``on_failure="raise"``.
            on_failure: ``"retry"``: if a member is lost, the others repeat the operation without
                it. ``"resume"``: they keep what is reduced already, of large arrays (from 16 MiB),
                and repeat the rest; what was kept has the lost one's input in it, and an average
                is divided accordingly. Needs ``atomic``, and not for a ``step()``. ``"raise"``:
                they all raise ``PeerLost``.
            codec: what travels is encoded by it, the same on all ranks: a name, such as
                ``"mxint8"``, or a ``collectives.Codec``; of sums and averages of floats. What is
                added is float32. All get the same bits, near those that they get without it: see
                ``docs/codecs.md``. None: nothing is lost. ``Codec("topk", keep=...)`` is gathered
                and not reduced on its way: for a few members, and a few of many elements.
            residual: with ``Codec(..., error_feedback=True)``: a float32 array with an element for
                each of the input, in one piece, zeros at first. What this rank's encoding loses is
                in it when the operation has succeeded, and is added to what is encoded next time.
                It belongs to this rank and this tensor, and in its checkpoint.

        Returns:
            ``value`` is the array that holds the result, ``contributors`` whose input is in all of
            it; ``ranges`` says which elements have more, after a loss that was resumed.

        Raises:
            PeerLost: a member died or left and the operation was not to be repeated. The group is
                broken until all call ``sync()``; so it is after every other error below.
            TooFewPeers: fewer than ``min_size`` members are left.
            Timeout: the message names who is missing.
            MismatchError: ranks called different things; the message says who called what.
            InvalidArgument, UnsupportedError: nothing was sent.
        """
        issuer = self._issuer
        issuer.reduction(
            array,
            op,
            out,
            tag,
            timeout,
            flags_of(atomic, on_failure),
            algorithm,
            codec=codec,
            residual=residual,
        )
        value = array if out is None else out
        if (made := sparse.codec_of(codec)) is not None:
            value = sparse.all_reduce(issuer, array, value, op, tag, made, residual)
        result = issuer.blocking(value)
        if issuer.step is not None:
            issuer.step.reduced(result)
        return result

    def all_reduce_async(
        self,
        array: Any,
        op: str | ScaledSum = "sum",
        *,
        out: Any = None,
        tag: int | None = None,
        timeout: float | None = None,
        algorithm: str | None = None,
        atomic: bool = True,
        on_failure: str = "retry",
        codec: str | Codec | None = None,
        residual: Any = None,
    ) -> Work:
        """Start an ``all_reduce``; its arguments are those.

        Returns:
            The operation under way; the arrays must not be touched until it has ended.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: the group is broken already.
                Waiting raises what ``all_reduce`` raises.
            InvalidArgument, UnsupportedError: nothing was sent.
        """
        issuer = self._issuer
        issuer.reduction(
            array,
            op,
            out,
            tag,
            timeout,
            flags_of(atomic, on_failure),
            algorithm,
            codec=codec,
            residual=residual,
        )
        value = array if out is None else out
        if (made := sparse.codec_of(codec)) is not None:
            value = sparse.all_reduce(issuer, array, value, op, tag, made, residual)
        return issuer.issue(value, (array, out, residual))

    def broadcast(
        self,
        array: Any,
        root: int = 0,
        *,
        tag: int | None = None,
        timeout: float | None = None,
        algorithm: str | None = None,
        atomic: bool = True,
        on_failure: str = "retry",
        codec: str | None = None,
    ) -> Result:
        """Copy the root's array into everybody's, in place.

        Args:
            array: numpy array or CPU tensor, or a list of them; the same dtype and number of
                elements on all ranks. Read on the root, written elsewhere.
            root: the rank whose array it is.
            tag: as in ``all_reduce``.
            timeout: as in ``all_reduce``.
            algorithm: as in ``all_reduce``.
            atomic: as in ``all_reduce``.
            on_failure: as in ``all_reduce``; without its root it is not repeated in any case.
            codec: ``"lossless"``: what travels is packed, and unpacked to the same bits, which pays
                for large arrays of floats on links below about 300 MB/s. Takes as much memory again
                as the packed bytes; of no lists. The same on all ranks; None: not packed.

        Returns:
            ``value`` is the array; ``contributors`` is the root alone.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted, InvalidArgument,
                UnsupportedError: as ``all_reduce``.
        """
        if codec is not None:
            packing.check_codec(codec)
            common = Common(tag, timeout, algorithm, on_failure, atomic=atomic)
            return packing.broadcast(self._issuer, array, root, common)
        self._issuer.copying(array, root, tag, timeout, flags_of(atomic, on_failure), algorithm)
        return self._issuer.blocking(array)

    def broadcast_async(
        self,
        array: Any,
        root: int = 0,
        *,
        tag: int | None = None,
        timeout: float | None = None,
        algorithm: str | None = None,
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
        self._issuer.copying(array, root, tag, timeout, flags_of(atomic, on_failure), algorithm)
        return self._issuer.issue(array, (array,))

    def reduce(
        self,
        array: Any,
        root: int = 0,
        op: str | ScaledSum = "sum",
        *,
        out: Any = None,
        tag: int | None = None,
        timeout: float | None = None,
        algorithm: str | None = None,
        atomic: bool = True,
        on_failure: str = "retry",
        codec: str | Codec | None = None,
        residual: Any = None,
    ) -> Result:
        """Reduce an array over all members, element by element; the root gets the result.

        The bits are those that an ``all_reduce`` of the same arrays has, unless ``algorithm`` or
        a plan table has one of the two carried out in another way.

        Args:
            array: as in ``all_reduce``. Only the root's is overwritten.
            root: the rank that gets the result.
            op: as in ``all_reduce``.
            out: on the root, as in ``all_reduce``.
            tag: as in ``all_reduce``.
            timeout: as in ``all_reduce``.
            algorithm: as in ``all_reduce``.
            atomic: as in ``all_reduce``.
            on_failure: as in ``all_reduce``; without its root it is not repeated in any case.
            codec: as in ``all_reduce``.
            residual: as in ``all_reduce``.

        Returns:
            ``value`` is the array that holds the result, None on all ranks but the root;
            ``contributors`` whose input is in it.

        Raises:
            PeerLost, TooFewPeers, Timeout, MismatchError, Cancelled, Evicted, InvalidArgument,
                UnsupportedError: as ``all_reduce``.
        """
        issuer = self._issuer
        value = blocks.reduce(
            issuer,
            array,
            op,
            root,
            out,
            Common(
                tag, timeout, algorithm, on_failure, atomic=atomic, codec=codec, residual=residual
            ),
        )
        result = issuer.blocking(value)
        if issuer.step is not None:
            issuer.step.reduced(result)
        return result

    def reduce_async(
        self,
        array: Any,
        root: int = 0,
        op: str | ScaledSum = "sum",
        *,
        out: Any = None,
        tag: int | None = None,
        timeout: float | None = None,
        algorithm: str | None = None,
        atomic: bool = True,
        on_failure: str = "retry",
        codec: str | Codec | None = None,
        residual: Any = None,
    ) -> Work:
        """Start a ``reduce``; its arguments are those.

        Returns:
            The operation under way; the arrays must not be touched until it has ended.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: the group is broken already.
            InvalidArgument, UnsupportedError: nothing was sent.
        """
        issuer = self._issuer
        value = blocks.reduce(
            issuer,
            array,
            op,
            root,
            out,
            Common(
                tag, timeout, algorithm, on_failure, atomic=atomic, codec=codec, residual=residual
            ),
        )
        return issuer.issue(value, (array, out, residual))

    def reduce_scatter(
        self,
        array: Any,
        op: str | ScaledSum = "sum",
        *,
        out: Any = None,
        counts: Sequence[int] | None = None,
        tag: int | None = None,
        timeout: float | None = None,
        algorithm: str | None = None,
        resize: bool = False,
        codec: str | Codec | None = None,
        residual: Any = None,
    ) -> Result:
        """Reduce an array over all members, element by element; each gets its block of the result.

        Args:
            array: numpy array or CPU tensor, the same dtype and shape on all ranks: the
                blocks of all ranks along its first axis; or a list with an array for each. Not
                overwritten, unless ``out`` is a part of it, which may only be this rank's block,
                and of no list.
            op: as in ``all_reduce``.
            out: where this rank's block goes, of the same dtype; None: a new array.
            counts: rows of each rank's block, the same on all ranks, also 0; None: equal ones.
            tag: as in ``all_reduce``.
            timeout: as in ``all_reduce``.
            algorithm: as in ``all_reduce``.
            resize: if a member is lost, the others repeat the operation without it. False: they
                all raise ``PeerLost``.
            codec: as in ``all_reduce``; each rank's block is encoded once on its way here, and not
                again.
            residual: as in ``all_reduce``, an element for each of the whole input.

        Returns:
            ``value`` is the array that holds this rank's block, ``contributors`` whose input is in
            it.

        Raises:
            PeerLost, TooFewPeers, Timeout, MismatchError, Cancelled, Evicted, InvalidArgument,
                UnsupportedError: as ``all_reduce``.
        """
        issuer = self._issuer
        value = blocks.reduce_scatter(
            issuer,
            array,
            op,
            out,
            counts,
            Common(tag, timeout, algorithm, resize=resize, codec=codec, residual=residual),
        )
        result = issuer.blocking(value)
        if issuer.step is not None:
            issuer.step.reduced(result)
        return result

    def reduce_scatter_async(
        self,
        array: Any,
        op: str | ScaledSum = "sum",
        *,
        out: Any = None,
        counts: Sequence[int] | None = None,
        tag: int | None = None,
        timeout: float | None = None,
        algorithm: str | None = None,
        resize: bool = False,
        codec: str | Codec | None = None,
        residual: Any = None,
    ) -> Work:
        """Start a ``reduce_scatter``; its arguments are those.

        Returns:
            The operation under way; the arrays must not be touched until it has ended.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: the group is broken already.
            InvalidArgument, UnsupportedError: nothing was sent.
        """
        issuer = self._issuer
        value = blocks.reduce_scatter(
            issuer,
            array,
            op,
            out,
            counts,
            Common(tag, timeout, algorithm, resize=resize, codec=codec, residual=residual),
        )
        return issuer.issue(value, (array, value, residual))

    def all_gather(
        self,
        array: Any,
        *,
        out: Any = None,
        counts: Sequence[int] | None = None,
        tag: int | None = None,
        timeout: float | None = None,
        algorithm: str | None = None,
        resize: bool = False,
        codec: str | None = None,
    ) -> Result:
        """Put the arrays of all members together; all get the same.

        Args:
            array: this rank's block: numpy array or CPU tensor, the same dtype and shape
                on all ranks, but for the rows with ``counts``. It may be its place in ``out``.
            out: where the blocks go, one after the other along the first axis, of the same dtype,
                or a list with an array for each; None: a new array. A 0-d array is a block of one
                row.
            counts: rows of each rank's block, the same on all ranks, also 0; None: equal ones, or
                those of the list.
            tag: as in ``all_reduce``.
            timeout: as in ``all_reduce``.
            algorithm: as in ``all_reduce``.
            resize: if a member is lost, the others repeat the operation without it, with as many
                blocks less. False: they
                all raise ``PeerLost``.
            codec: as in ``broadcast``.

        Returns:
            ``value`` is the array with the blocks, by rank, or the list; with ``resize``, of
            ``contributors``: the arrays of the list that are theirs.

        Raises:
            PeerLost, TooFewPeers, Timeout, MismatchError, Cancelled, Evicted, InvalidArgument,
                UnsupportedError: as ``all_reduce``.
        """
        issuer = self._issuer
        common = Common(tag, timeout, algorithm, resize=resize)
        if codec is not None:
            packing.check_codec(codec)
            return packing.all_gather(issuer, array, out, counts, common)
        value = blocks.all_gather(issuer, array, out, counts, common)
        return issuer.blocking(value)

    def all_gather_async(
        self,
        array: Any,
        *,
        out: Any = None,
        counts: Sequence[int] | None = None,
        tag: int | None = None,
        timeout: float | None = None,
        algorithm: str | None = None,
        resize: bool = False,
    ) -> Work:
        """Start an ``all_gather``; its arguments are those.

        Returns:
            The operation under way; the arrays must not be touched until it has ended.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: the group is broken already.
            InvalidArgument, UnsupportedError: nothing was sent.
        """
        issuer = self._issuer
        value = blocks.all_gather(
            issuer, array, out, counts, Common(tag, timeout, algorithm, resize=resize)
        )
        return issuer.issue(value, (array, value))

    def gather(
        self,
        array: Any,
        root: int = 0,
        *,
        out: Any = None,
        counts: Sequence[int] | None = None,
        tag: int | None = None,
        timeout: float | None = None,
        algorithm: str | None = None,
        resize: bool = False,
    ) -> Result:
        """Put the arrays of all members together; the root gets them.

        Args:
            array: this rank's block, as in ``all_gather``.
            root: the rank that gets all of them.
            out: on the root, as in ``all_gather``.
            counts: as in ``all_gather``.
            tag: as in ``all_reduce``.
            timeout: as in ``all_reduce``.
            algorithm: as in ``all_reduce``.
            resize: if a member is lost, the others repeat the operation without it, with as many
                blocks less. False: they
                all raise ``PeerLost``.

        Returns:
            ``value`` as in ``all_gather``, None on all ranks but the root.

        Raises:
            PeerLost, TooFewPeers, Timeout, MismatchError, Cancelled, Evicted, InvalidArgument,
                UnsupportedError: as ``all_reduce``.
        """
        issuer = self._issuer
        value = blocks.all_gather(
            issuer, array, out, counts, Common(tag, timeout, algorithm, resize=resize), root=root
        )
        return issuer.blocking(value)

    def gather_async(
        self,
        array: Any,
        root: int = 0,
        *,
        out: Any = None,
        counts: Sequence[int] | None = None,
        tag: int | None = None,
        timeout: float | None = None,
        algorithm: str | None = None,
        resize: bool = False,
    ) -> Work:
        """Start a ``gather``; its arguments are those.

        Returns:
            The operation under way; the arrays must not be touched until it has ended.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: the group is broken already.
            InvalidArgument, UnsupportedError: nothing was sent.
        """
        issuer = self._issuer
        value = blocks.all_gather(
            issuer, array, out, counts, Common(tag, timeout, algorithm, resize=resize), root=root
        )
        return issuer.issue(value, (array, value))

    def scatter(
        self,
        array: Any,
        root: int = 0,
        *,
        out: Any = None,
        counts: Sequence[int] | None = None,
        tag: int | None = None,
        timeout: float | None = None,
        algorithm: str | None = None,
        resize: bool = False,
    ) -> Result:
        """Give each member its block of the root's array.

        Args:
            array: on the root, the blocks of all ranks along the first axis: numpy array or CPU
                tensor, or a list with an array for each; elsewhere None.
            root: the rank whose array it is.
            out: where this rank's block goes, of the same dtype; None, on the root only: a new
                array.
            counts: rows of each rank's block, the same on all ranks, also 0; None: equal ones.
            tag: as in ``all_reduce``.
            timeout: as in ``all_reduce``.
            algorithm: as in ``all_reduce``.
            resize: if a member is lost, the others repeat the operation without it. False: they
                all raise ``PeerLost``.

        Returns:
            ``value`` is the array that holds this rank's block, ``contributors`` is the root alone.

        Raises:
            PeerLost, TooFewPeers, Timeout, MismatchError, Cancelled, Evicted, InvalidArgument,
                UnsupportedError: as ``all_reduce``.
        """
        issuer = self._issuer
        value = blocks.scatter(
            issuer, array, root, out, counts, Common(tag, timeout, algorithm, resize=resize)
        )
        return issuer.blocking(value)

    def scatter_async(
        self,
        array: Any,
        root: int = 0,
        *,
        out: Any = None,
        counts: Sequence[int] | None = None,
        tag: int | None = None,
        timeout: float | None = None,
        algorithm: str | None = None,
        resize: bool = False,
    ) -> Work:
        """Start a ``scatter``; its arguments are those.

        Returns:
            The operation under way; the arrays must not be touched until it has ended.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: the group is broken already.
            InvalidArgument, UnsupportedError: nothing was sent.
        """
        issuer = self._issuer
        value = blocks.scatter(
            issuer, array, root, out, counts, Common(tag, timeout, algorithm, resize=resize)
        )
        return issuer.issue(value, (array, value))

    def all_to_all(
        self,
        array: Any,
        *,
        out: Any = None,
        counts: Sequence[int] | None = None,
        out_counts: Sequence[int] | None = None,
        tag: int | None = None,
        timeout: float | None = None,
        algorithm: str | None = None,
        resize: bool = False,
    ) -> Result:
        """Give each member a block, and get one from each.

        Args:
            array: a block for each rank along the first axis: numpy array or CPU tensor,
                the same dtype on all ranks; or a list with an array for each.
            out: where the blocks from each rank go, likewise; None: a new array. Not ``array``.
                If that is a list, it must be given.
            counts: rows of what goes to each rank, also 0; None: equal blocks on all ranks, or
                those of the list.
            out_counts: rows of what comes from each rank; with ``counts`` only. Two ranks that do
                not say the same of what goes between them get a ``MismatchError``.
            tag: as in ``all_reduce``.
            timeout: as in ``all_reduce``.
            algorithm: as in ``all_reduce``.
            resize: if a member is lost, the others repeat the operation without it, with as many
                blocks less. False: they
                all raise ``PeerLost``.

        Returns:
            ``value`` is the array with the blocks, by rank; with ``resize``, of ``contributors``.

        Raises:
            PeerLost, TooFewPeers, Timeout, MismatchError, Cancelled, Evicted, InvalidArgument,
                UnsupportedError: as ``all_reduce``.
        """
        issuer = self._issuer
        value = blocks.all_to_all(
            issuer, array, out, counts, out_counts, Common(tag, timeout, algorithm, resize=resize)
        )
        return issuer.blocking(value)

    def all_to_all_async(
        self,
        array: Any,
        *,
        out: Any = None,
        counts: Sequence[int] | None = None,
        out_counts: Sequence[int] | None = None,
        tag: int | None = None,
        timeout: float | None = None,
        algorithm: str | None = None,
        resize: bool = False,
    ) -> Work:
        """Start an ``all_to_all``; its arguments are those.

        Returns:
            The operation under way; the arrays must not be touched until it has ended.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: the group is broken already.
            InvalidArgument, UnsupportedError: nothing was sent.
        """
        issuer = self._issuer
        value = blocks.all_to_all(
            issuer, array, out, counts, out_counts, Common(tag, timeout, algorithm, resize=resize)
        )
        return issuer.issue(value, (array, value))

    def send(
        self, array: Any, to: int, *, tag: int | None = None, timeout: float | None = None
    ) -> Result:
        """Send an array to one member; return when it has received all of it.

        The k-th send to a rank with a tag meets that rank's k-th receive from this one with the
        same tag. Two that send to each other before they receive wait for each other: have one
        receive first, or use ``send_async``.

        Args:
            array: numpy array or CPU tensor of any shape and strides.
            to: the receiver's rank; not this one.
            tag: sends and receives of a tag are matched in an order of their own, beside that of
                the collectives of the tag; one thread, as in ``all_reduce``.
            timeout: as in ``all_reduce``.

        Returns:
            ``value`` is the array, ``contributors`` is this peer alone.

        Raises:
            PeerLost: the receiver died or left; it may have received the array before that. The
                group is broken until all call ``sync()``; so it is after every other error below.
            Timeout: the message says whether the receiver has called it.
            MismatchError: the receiver expects another dtype or number of elements.
            TooFewPeers, Cancelled, Evicted: as ``all_reduce``.
            InvalidArgument, UnsupportedError: nothing was sent.
        """
        self._issuer.sending(array, to, tag, timeout)
        return self._issuer.blocking(array)

    def send_async(
        self, array: Any, to: int, *, tag: int | None = None, timeout: float | None = None
    ) -> Work:
        """Start a ``send``; its arguments are those.

        Returns:
            The operation under way; the array must not be touched until it has ended.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: the group is broken already.
            InvalidArgument, UnsupportedError: nothing was sent.
        """
        self._issuer.sending(array, to, tag, timeout)
        return self._issuer.issue(array, (array,))

    def recv(
        self,
        array: Any,
        source: int | None = None,
        *,
        tag: int | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Receive an array from one member, or from any.

        From any: from the first that is heard of of those who send what no other receive was called
        for; which one that is depends on timing.

        Args:
            array: where it goes: numpy array or CPU tensor of any shape and strides, of the dtype
                and number of elements of the one that is sent. Undefined after an error.
            source: the sender's rank; None: any.
            tag: as in ``send``.
            timeout: as in ``all_reduce``.

        Returns:
            ``value`` is the array, ``contributors`` is the sender alone.

        Raises:
            PeerLost: the sender died or left before everything had come; from any: nobody is left
                who could send. The group is broken until all call ``sync()``; so it is after every
                other error below.
            Timeout: the message says whether the sender has called it.
            MismatchError: the sender sends another dtype or number of elements.
            TooFewPeers, Cancelled, Evicted: as ``all_reduce``.
            InvalidArgument, UnsupportedError: nothing was received.
        """
        self._issuer.receiving(array, source, tag, timeout)
        return self._issuer.blocking(array)

    def recv_async(
        self,
        array: Any,
        source: int | None = None,
        *,
        tag: int | None = None,
        timeout: float | None = None,
    ) -> Work:
        """Start a ``recv``; its arguments are those.

        Returns:
            The operation under way; the array must not be touched until it has ended.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: the group is broken already.
            InvalidArgument, UnsupportedError: nothing was received.
        """
        self._issuer.receiving(array, source, tag, timeout)
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
