"""Conversion of the caller's tensors to float64 arrays and back; everything about inputs is checked here.

A batch of problems, whatever its form, becomes two zero-padded arrays, A (p, m, n) and b (p, m).
Padding is harmless: a zero column never enters a solution, a zero row adds nothing to the residual.

Matrices can also be read alone (`read_matrices`), and vectors for them later (`read_right_sides`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray
Tensors = Tensor | Array | Sequence[Tensor] | Sequence[Array]
Groups = Sequence[int] | Sequence[Sequence[int]] | Array
Sizes = int | Sequence[int]
Answer = Tensor | Array

CPU = torch.device("cpu")
NUMPY_KNOWS = (torch.float64, torch.float32, torch.float16)


@dataclass(frozen=True)
class Form:
    """The form in which the caller gave something, and wants the answer.

    Attributes
    ----------
    columns : tuple of int
        Each problem's own n; only ragged batches have fewer than the array.
    shape : tuple of int
        Shape of the caller's batch: () for one problem, (p,) for a ragged batch of p problems,
        (p, ...) for one where each matrix has many b.
    ragged : bool
        Whether the problems came as sequences, and the answers go back as tuples.
    dtype, device
        The caller's.
    arrays : bool
        Whether the caller works with NumPy arrays, not tensors.
    """

    columns: tuple[int, ...]
    shape: tuple[int, ...]
    ragged: bool
    dtype: torch.dtype
    device: torch.device
    arrays: bool

    def vectors(self, z: Array) -> Answer | tuple[Answer, ...]:
        """Return the rows of z (p, n) as the caller's (..., n) tensor, or as one tensor per matrix."""
        if not self.ragged:
            return self._given(self._send(z.reshape(*self.shape, z.shape[-1])))
        count, *lead = self.shape
        per_matrix = z.reshape(count, -1, z.shape[-1])
        widths = self.columns[:: per_matrix.shape[1]]
        parts = [rows[:, :n].ravel() for rows, n in zip(per_matrix, widths, strict=True)]
        flat = self._send(np.concatenate(parts)).split([len(part) for part in parts])
        return tuple(self._given(part.view(*lead, n)) for part, n in zip(flat, widths, strict=True))

    def scalars(self, values: Array) -> Answer:
        """Return one value per problem (p,) as a (...) tensor; floats in the caller's dtype."""
        return self._given(self._send(values.reshape(self.shape)))

    def per_problem(self, values: list[tuple[int, ...]]) -> tuple:
        """Return one Python value per problem: bare for one problem, a tuple of them for a batch."""
        return values[0] if self.shape == () else tuple(values)

    def per_matrix(self, values: Array) -> Array:
        """Return one row for each problem, from one row for each matrix of a ragged batch, or for all."""
        count = len(self.columns)
        if len(values) == count:
            return values
        return np.repeat(values, count // len(values), axis=0)

    def _send(self, values: Array) -> Tensor:
        tensor = torch.from_numpy(np.array(values))
        if values.dtype == np.float64 and self.dtype != torch.float64:
            tensor = tensor.to(self.dtype)  # before the move: not every device knows float64
        return tensor if self.device == CPU else tensor.to(self.device)

    def _given(self, tensor: Tensor) -> Answer:
        return tensor.numpy() if self.arrays else tensor


@dataclass(frozen=True)
class Matrices(Form):
    """Matrices as one padded float64 array.

    Attributes
    ----------
    A : array of shape (p, m, n)
    rows : tuple of int
        Each matrix's own m.
    """

    A: Array
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Batch(Form):
    """Problems as padded float64 arrays.

    Attributes
    ----------
    matrices : array of shape (q, m, n)
    matrix : array of shape (p,)
        Which of them belongs to each problem; each has equally many.
    b : array of shape (p, m)
    """

    matrices: Array
    matrix: Array
    b: Array

    @property
    def A(self) -> Array:
        """The matrix of each problem, (p, m, n)."""
        return self.matrices if len(self.matrices) == len(self.b) else self.matrices[self.matrix]


@dataclass(frozen=True)
class Vectors(Form):
    """Vectors without a problem, as one padded float64 array.

    Attributes
    ----------
    z : array of shape (p, n)
    """

    z: Array


def read_problems(A: Tensors, b: Tensors) -> Batch:
    """Check A and b and bring them to the host, by one transfer.

    Answers are arrays where b is.

    Raises
    ------
    TypeError
        If something is neither a tensor nor an array.
    ValueError
        If shapes do not fit, something is empty, not floating-point or not finite.
    """
    named_A = _name_matrices(A)
    named_b = _name_right_sides([(name, tuple(tensor.shape)) for name, tensor in named_A], b)
    named = named_A + named_b
    dtype, device = _common(named)
    host = _to_host(named)
    matrices = _padded_matrices(named_A, host[: len(named_A)], dtype, device, _are_arrays(A))
    return _batch(matrices, host[len(named_A) :], dtype, device, _are_arrays(b))


def read_matrices(A: Tensors) -> Matrices:
    """Check matrices, or one, or a batch, and bring them to the host.

    Raises
    ------
    TypeError, ValueError
        As for `read_problems`.
    """
    named = _name_matrices(A)
    return _padded_matrices(named, _to_host(named), *_common(named), _are_arrays(A))


def read_right_sides(matrices: Matrices, b: Tensors) -> Batch:
    """Check vectors for matrices that were read before, and bring them to the host.

    The answers go back to the device of b.

    Raises
    ------
    TypeError, ValueError
        As for `read_problems`.
    """
    if matrices.ragged:
        own = zip(matrices.rows, matrices.columns, strict=True)
        shapes = [(f"A[{i}]", shape) for i, shape in enumerate(own)]
    else:
        shapes = [("A", (*matrices.shape, *matrices.A.shape[1:]))]
    named = _name_right_sides(shapes, b)
    dtype, device = _common(named)
    dtype = torch.promote_types(dtype, matrices.dtype)
    return _batch(matrices, _to_host(named), dtype, device, _are_arrays(b))


def read_alone(z: Tensors) -> Vectors:
    """Check vectors that come without a problem, and bring them to the host.

    Raises
    ------
    TypeError
        If something is neither a tensor nor an array.
    ValueError
        If something is no vector, empty, not floating-point or not finite.
    """
    ragged = not isinstance(z, Tensor | Array)
    named = _check_sequence("z", z, None) if ragged else [("z", _as_tensor("z", z))]
    lead = named[0][1].shape[:-1]
    for name, tensor in named:
        if tensor.ndim < 1 or tensor.shape[:-1] != lead:
            wanted = (
                ", ".join(map(str, (*lead, "n"))) + ("" if lead else ",") if ragged else "..., n"
            )
            raise ValueError(f"{name} must have shape ({wanted}), got {tuple(tensor.shape)}")
        if tensor.numel() == 0:
            raise ValueError(f"{name} must not be empty, got shape {tuple(tensor.shape)}")
    dtype, device = _common(named)
    host = _to_host(named)
    each = math.prod(lead)
    return Vectors(
        z=_padded_rows(host),
        columns=tuple(array.shape[-1] for array in host for _ in range(each)),
        shape=(len(host), *lead) if ragged else tuple(lead),
        ragged=ragged,
        dtype=dtype,
        device=device,
        arrays=_are_arrays(z),
    )


def read_groups(form: Form, groups: Groups | None) -> Array | None:
    """Check the group of every column; as (p, n), numbered from 0 up, -1 for padding.

    For a batch that is not ragged the p rows are one and the same.

    Raises
    ------
    TypeError
        If something is not a sequence of ints.
    ValueError
        If there is not one group for each column.
    """
    if groups is None:
        return None
    if form.ragged:
        p = form.shape[0]
        _check_is_sequence("groups", groups, "a sequence of sequences of ints")
        if len(groups) != p:
            raise ValueError(
                f"groups must hold {p} sequences, one for each problem, got {len(groups)}"
            )
        named = [(f"groups[{i}]", each) for i, each in enumerate(groups)]
    else:
        named = [("groups", groups)]  # the same for the whole batch
    numbered = np.full((len(named), max(form.columns)), -1)
    widths = form.columns[:: len(form.columns) // len(named)]
    for row, (name, each), n in zip(numbered, named, widths, strict=True):
        _check_is_sequence(name, each, "a sequence of ints")
        for group in each:
            if isinstance(group, bool) or not isinstance(group, int | np.integer):
                raise TypeError(f"{name} must be a sequence of ints, got {group!r} in it")
        if len(each) != n:
            raise ValueError(f"{name} must hold {n} ints, one for each column, got {len(each)}")
        number = {group: k for k, group in enumerate(dict.fromkeys(each))}
        row[:n] = [number[group] for group in each]
    return form.per_matrix(numbered)


def read_vectors(form: Form, z: Tensors, name: str, fit: str = "A") -> Array:
    """Check one vector of n entries per problem, (..., n) or a sequence of (..., n_i); as (p, n).

    `fit` is what it must fit, for messages.
    """
    p, n = len(form.columns), max(form.columns)
    if not form.ragged:
        z = _as_tensor(name, z)
        try:
            shape = torch.broadcast_shapes(z.shape[:-1], form.shape)
        except RuntimeError:
            shape = None
        if z.ndim < 1 or z.shape[-1] != n or shape != form.shape:
            raise ValueError(
                f"{name} must have shape {(*form.shape, n)} to fit {fit}, got {tuple(z.shape)}"
            )
        (host,) = _to_host([(name, z)])
        return np.broadcast_to(host, (*form.shape, n)).reshape(p, n)
    count, *lead = form.shape
    named = _check_sequence(name, z, count, fit)
    for (label, tensor), columns in zip(named, form.columns[:: p // count], strict=True):
        if tensor.shape != (*lead, columns):
            raise ValueError(
                f"{label} must have shape {(*lead, columns)} to fit {fit}, "
                f"got {tuple(tensor.shape)}"
            )
    return _padded_rows(_to_host(named))


def read_lam(batch: Batch, lam: float | Tensor | Sequence[float]) -> Array:
    """Check the penalty, a number or one per problem; as (p,)."""
    if isinstance(lam, Tensor):
        values = lam.detach().cpu().to(torch.float64).numpy()
    else:
        try:
            values = np.asarray(lam)
        except ValueError:  # nested sequences of uneven length
            values = np.asarray(None)
        if values.dtype.kind not in "fiu":
            raise TypeError(f"lam must be a number or a tensor, got {type(lam).__name__}")
        values = values.astype(np.float64)
    try:
        values = np.broadcast_to(values, batch.shape)
    except ValueError:
        raise ValueError(
            f"lam must be a number or fit the batch shape {batch.shape}, got shape {values.shape}"
        ) from None
    if not np.isfinite(values).all() or (values < 0).any():
        wrong = values[~(np.isfinite(values) & (values >= 0))].flat[0]
        raise ValueError(f"lam must be finite and at least 0, got {wrong}")
    return values.reshape(-1)


def read_sizes(form: Form, s: Sizes, groups: Array | None = None) -> Array:
    """Check the wanted number of non-zeros against each problem's n, or number of groups; as (p,).

    Raises
    ------
    ValueError
        If something is no int, out of range, or there is not one for each problem.
    """
    if not form.ragged or not isinstance(s, Sequence):
        named = [("s", s)]
    else:
        if len(s) != form.shape[0]:
            wanted = f"s must hold {form.shape[0]} integers, one for each problem"
            raise ValueError(f"{wanted}, got {len(s)}")
        named = [(f"s[{i}]", each) for i, each in enumerate(s)]
    step = len(form.columns) // len(named)
    for i, (name, each) in enumerate(named):
        if isinstance(each, bool) or not isinstance(each, int | np.integer):
            raise ValueError(f"{name} must be an integer, got {each!r}")
        own = slice(i * step, (i + 1) * step)
        if groups is not None:
            fewest = int(groups[own].max(1).min()) + 1
            if not 1 <= each <= fewest:
                raise ValueError(
                    f"{name} must lie between 1 and the number of groups, {fewest}, got {each}"
                )
        fewest = min(form.columns[own])
        if not 1 <= each <= fewest:
            raise ValueError(f"{name} must lie between 1 and n = {fewest}, got {each}")
    return form.per_matrix(np.array([each for _, each in named]))


def _name_matrices(A: Tensors) -> list[tuple[str, Tensor]]:
    """Check matrices; named for messages."""
    if isinstance(A, Tensor | Array):
        A = _as_tensor("A", A)
        _check_matrix_shape("A", A)
        return [("A", A)]
    named = _check_sequence("A", A, None)
    for name, matrix in named:
        _check_matrix_shape(name, matrix)
        if matrix.ndim != 2:
            raise ValueError(f"{name} must have shape (m, n), got {tuple(matrix.shape)}")
    return named


def _name_right_sides(
    shapes: list[tuple[str, tuple[int, ...]]], b: Tensors
) -> list[tuple[str, Tensor]]:
    """Check that vectors fit matrices of these names and shapes; named for messages."""
    (first, shape_A), *_ = shapes
    if first == "A":
        b = _as_tensor("b", b)
        if b.ndim < 1 or b.shape[-1] != shape_A[-2]:
            raise ValueError(
                f"b must have shape (..., {shape_A[-2]}) to fit A of shape {shape_A}, "
                f"got {tuple(b.shape)}"
            )
        try:
            shape = torch.broadcast_shapes(shape_A[:-2], b.shape[:-1])
        except RuntimeError:
            raise ValueError(
                f"the batch dimensions of b must fit those of A, {shape_A[:-2]}, "
                f"got {tuple(b.shape[:-1])}"
            ) from None
        if math.prod(shape) == 0:
            raise ValueError(f"b must not be empty, got shape {tuple(b.shape)}")
        return [("b", b)]
    named = _check_sequence("b", b, len(shapes))
    lead = named[0][1].shape[:-1]
    for (name, shape_A), (label, vectors) in zip(shapes, named, strict=True):
        wanted = (*lead, shape_A[0])
        if vectors.shape != wanted:
            raise ValueError(
                f"{label} must have shape {wanted} to fit {name} of shape {shape_A}, "
                f"got {tuple(vectors.shape)}"
            )
        if vectors.numel() == 0:
            raise ValueError(f"{label} must not be empty, got shape {tuple(vectors.shape)}")
    return named


def _padded_matrices(
    named: list[tuple[str, Tensor]],
    host: list[Array],
    dtype: torch.dtype,
    device: torch.device,
    arrays: bool,
) -> Matrices:
    (first, _), *_ = named
    ragged = first != "A"
    if ragged:
        rows, columns = zip(*(array.shape for array in host), strict=True)
        A = np.zeros((len(host), max(rows), max(columns)))
        for padded, array in zip(A, host, strict=True):
            padded[: array.shape[0], : array.shape[1]] = array
        shape: tuple[int, ...] = (len(host),)
    else:
        shape = host[0].shape[:-2]
        A = host[0].reshape(-1, *host[0].shape[-2:])
        rows, columns = ((size,) * len(A) for size in A.shape[1:])
    return Matrices(
        A=A,
        rows=rows,
        columns=columns,
        shape=shape,
        ragged=ragged,
        dtype=dtype,
        device=device,
        arrays=arrays,
    )


def _batch(
    matrices: Matrices,
    host: list[Array],
    dtype: torch.dtype,
    device: torch.device,
    arrays: bool,
) -> Batch:
    count, m, _ = matrices.A.shape
    if matrices.ragged:
        lead = host[0].shape[:-1]
        b = _padded_rows(host)
        shape = (count, *lead)
        matrix = np.repeat(np.arange(count), math.prod(lead))
    else:
        shape = np.broadcast_shapes(matrices.shape, host[0].shape[:-1])
        b = np.broadcast_to(host[0], (*shape, m)).reshape(-1, m)
        index = np.arange(count).reshape(matrices.shape)
        matrix = np.broadcast_to(index, shape).ravel()
    each = len(b) // count
    columns = matrices.columns if each == 1 else tuple(matrices.columns[i] for i in matrix)
    return Batch(
        matrices=matrices.A,
        matrix=matrix,
        b=b,
        columns=columns,
        shape=shape,
        ragged=matrices.ragged,
        dtype=dtype,
        device=device,
        arrays=arrays,
    )


def _are_arrays(values: Tensors) -> bool:
    return isinstance(values if isinstance(values, Tensor | Array) else values[0], Array)


def _as_tensor(name: str, value: object) -> Tensor:
    if isinstance(value, Array):
        if value.dtype.kind != "f" or value.dtype.itemsize > 8:
            raise ValueError(f"{name} must be real floating-point, got dtype {value.dtype}")
        # A copy in the machine's own order: torch knows no other, and warns of read-only arrays.
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor or a NumPy array, got {type(value).__name__}"
        )
    if not value.is_floating_point():
        raise ValueError(f"{name} must be real floating-point, got dtype {value.dtype}")
    if value.layout != torch.strided:
        raise ValueError(f"{name} must be dense, got layout {value.layout}")
    return value


def _padded_rows(host: list[Array]) -> Array:
    """Return the rows of arrays (..., n_i) one below the other, filled up with zeros; (p, n)."""
    rows = [array.reshape(-1, array.shape[-1]) for array in host]
    if len(rows) == 1:
        return rows[0]
    padded = np.zeros((sum(map(len, rows)), max(array.shape[1] for array in rows)))
    start = 0
    for array in rows:
        padded[start : start + len(array), : array.shape[1]] = array
        start += len(array)
    return padded


def _check_sequence(
    name: str, values: object, length: int | None, fit: str = "A"
) -> list[tuple[str, Tensor]]:
    """Return the tensors of a sequence, each with its name for messages."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        wanted = "a sequence of tensors or of arrays"
        if length is None:
            wanted = f"a tensor, an array, or {wanted}"
        raise TypeError(f"{name} must be {wanted}, got {type(values).__name__}")
    if len(values) == 0:
        raise ValueError(f"{name} must not be empty, got a sequence of length 0")
    if length is not None and len(values) != length:
        raise ValueError(f"{name} must hold {length} tensors to fit {fit}, got {len(values)}")
    labels = (f"{name}[{i}]" for i in range(len(values)))
    return [(label, _as_tensor(label, value)) for label, value in zip(labels, values, strict=True)]


def _check_is_sequence(name: str, value: object, wanted: str) -> None:
    if not isinstance(value, Sequence) and not (isinstance(value, Array) and value.ndim):
        raise TypeError(f"{name} must be {wanted}, got {type(value).__name__}")


def _check_matrix_shape(name: str, A: Tensor) -> None:
    if A.ndim < 2:
        raise ValueError(f"{name} must have shape (..., m, n), got {tuple(A.shape)}")
    if A.numel() == 0:
        raise ValueError(f"{name} must not be empty, got shape {tuple(A.shape)}")


def _common(named: list[tuple[str, Tensor]]) -> tuple[torch.dtype, torch.device]:
    (first, tensor), *rest = named
    dtype, device = tensor.dtype, tensor.device
    for name, other in rest:
        if other.device != device:
            raise ValueError(f"{name} must be on {first}'s device, {device}, got {other.device}")
        if other.dtype != dtype:
            dtype = torch.promote_types(dtype, other.dtype)
    return dtype, device


def _to_host(named: list[tuple[str, Tensor]]) -> list[Array]:
    """Return all tensors as float64 arrays; one transfer for all of them.

    On the CPU the arrays may share the tensors' memory: they are not to be written to. There
    each torch call saved counts, for they cost more than the copying.
    """
    tensors = [tensor for _, tensor in named]
    if all(tensor.dtype in NUMPY_KNOWS and tensor.device == CPU for tensor in tensors):
        parts = [np.asarray(tensor.numpy(force=True), np.float64) for tensor in tensors]
        host = np.concatenate([part.ravel() for part in parts])
    else:
        with torch.no_grad():
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        host = flat.cpu().to(torch.float64).numpy()
        ends = accumulate((tensor.numel() for tensor in tensors), initial=0)
        parts = [
            host[start:end].reshape(tensor.shape)
            for (start, end), tensor in zip(pairwise(ends), tensors, strict=True)
        ]
    if not np.isfinite(host).all():
        for (name, _), part in zip(named, parts, strict=True):
            bad = part[~np.isfinite(part)]
            if bad.size:
                raise ValueError(
                    f"{name} must be finite, got {bad.size} NaN or infinite of {part.size} entries"
                )
    return parts
