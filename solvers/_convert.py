"""From the caller's tensors to float64 arrays and back; everything about inputs is checked here.

A batch of problems, whatever its form, becomes two zero-padded arrays, A (p, m, n) and b (p, m).
Padding is harmless: a zero column never enters a solution, a zero row adds nothing to the residual.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray
Tensors = Tensor | Sequence[Tensor]
Groups = Sequence[int] | Sequence[Sequence[int]]

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
        Shape of the caller's batch: () for one problem, (p,) for a ragged batch.
    ragged : bool
        Whether the problems came as sequences, and the answers go back as tuples.
    dtype, device
        The caller's.
    """

    columns: tuple[int, ...]
    shape: tuple[int, ...]
    ragged: bool
    dtype: torch.dtype
    device: torch.device

    def vectors(self, z: Array) -> Tensor | tuple[Tensor, ...]:
        """The rows of z (p, n) as the caller's (..., n) tensor, or as one tensor per problem."""
        if not self.ragged:
            return self._send(z.reshape(*self.shape, z.shape[-1]))
        flat = self._send(np.concatenate([row[:n] for row, n in zip(z, self.columns, strict=True)]))
        return flat.split(self.columns)

    def scalars(self, values: Array) -> Tensor:
        """One value per problem (p,) as a (...) tensor; floats in the caller's dtype."""
        return self._send(values.reshape(self.shape))

    def per_problem(self, values: list[tuple[int, ...]]) -> tuple:
        """One Python value per problem: bare for one problem, a tuple of them for a batch."""
        return values[0] if self.shape == () else tuple(values)

    def _send(self, values: Array) -> Tensor:
        tensor = torch.from_numpy(np.array(values))
        if values.dtype == np.float64 and self.dtype != torch.float64:
            tensor = tensor.to(self.dtype)  # before the move: not every device knows float64
        return tensor if self.device == CPU else tensor.to(self.device)


@dataclass(frozen=True)
class Batch(Form):
    """Problems as padded float64 arrays.

    Attributes
    ----------
    A : array of shape (p, m, n)
    b : array of shape (p, m)
    """

    A: Array
    b: Array


@dataclass(frozen=True)
class Vectors(Form):
    """Vectors without a problem, as one padded float64 array.

    Attributes
    ----------
    z : array of shape (p, n)
    """

    z: Array


def read_problems(A: Tensors, b: Tensors) -> Batch:
    """Check A and b and bring them to the host.

    Raises
    ------
    TypeError
        If something is not a tensor.
    ValueError
        If shapes do not fit, something is empty, not floating-point or not finite.
    """
    if not isinstance(A, Tensor):
        return _read_ragged(A, b)
    _check_tensor("A", A)
    _check_tensor("b", b)
    _check_matrix_shape("A", A)
    if b.ndim < 1 or b.shape[-1] != A.shape[-2]:
        expected = f"(..., {A.shape[-2]})"
        raise ValueError(
            f"b must have shape {expected} to fit A of shape {tuple(A.shape)}, got {tuple(b.shape)}"
        )
    try:
        shape = torch.broadcast_shapes(A.shape[:-2], b.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"the batch dimensions of b must fit those of A, {tuple(A.shape[:-2])}, "
            f"got {tuple(b.shape[:-1])}"
        ) from None
    if math.prod(shape) == 0:
        raise ValueError(f"b must not be empty, got shape {tuple(b.shape)}")
    dtype, device = _common([("A", A), ("b", b)])
    host_A, host_b = _to_host([("A", A), ("b", b)])
    m, n = A.shape[-2:]
    p = math.prod(shape)
    return Batch(
        A=np.broadcast_to(host_A, (*shape, m, n)).reshape(p, m, n),
        b=np.broadcast_to(host_b, (*shape, m)).reshape(p, m),
        columns=(n,) * p,
        shape=tuple(shape),
        ragged=False,
        dtype=dtype,
        device=device,
    )


def read_alone(z: Tensors) -> Vectors:
    """Check vectors that come without a problem, and bring them to the host.

    Raises
    ------
    TypeError
        If something is not a tensor.
    ValueError
        If something is no vector, empty, not floating-point or not finite.
    """
    ragged = not isinstance(z, Tensor)
    if ragged:
        named = _check_sequence("z", z, None)
    else:
        _check_tensor("z", z)
        named = [("z", z)]
    for name, tensor in named:
        if tensor.ndim < 1 or (ragged and tensor.ndim != 1):
            wanted = "(n,)" if ragged else "(..., n)"
            raise ValueError(f"{name} must have shape {wanted}, got {tuple(tensor.shape)}")
        if tensor.numel() == 0:
            raise ValueError(f"{name} must not be empty, got shape {tuple(tensor.shape)}")
    dtype, device = _common(named)
    host = _to_host(named)
    if ragged:
        columns = tuple(len(row) for row in host)
        padded = np.zeros((len(host), max(columns)))
        for line, row in zip(padded, host, strict=True):
            line[: len(row)] = row
        shape: tuple[int, ...] = (len(host),)
    else:
        padded = host[0].reshape(-1, z.shape[-1])
        columns = (z.shape[-1],) * len(padded)
        shape = tuple(z.shape[:-1])
    return Vectors(
        z=padded, columns=columns, shape=shape, ragged=ragged, dtype=dtype, device=device
    )


def read_groups(form: Form, groups: Groups | None) -> Array | None:
    """Check the group of every column; as (p, n), numbered from 0 up, -1 for padding.

    Raises
    ------
    TypeError
        If something is not a sequence of ints.
    ValueError
        If there is not one group for each column.
    """
    if groups is None:
        return None
    p = len(form.columns)
    if form.ragged:
        _check_is_sequence("groups", groups, "a sequence of sequences of ints")
        if len(groups) != p:
            raise ValueError(
                f"groups must hold {p} sequences, one for each problem, got {len(groups)}"
            )
        named = [(f"groups[{i}]", each) for i, each in enumerate(groups)]
    else:
        named = [("groups", groups)]  # the same for the whole batch
    numbered = np.full((len(named), max(form.columns)), -1)
    for row, (name, each), n in zip(numbered, named, form.columns[: len(named)], strict=True):
        _check_is_sequence(name, each, "a sequence of ints")
        for group in each:
            if isinstance(group, bool) or not isinstance(group, int):
                raise TypeError(f"{name} must be a sequence of ints, got {group!r} in it")
        if len(each) != n:
            raise ValueError(f"{name} must hold {n} ints, one for each column, got {len(each)}")
        number = {group: k for k, group in enumerate(dict.fromkeys(each))}
        row[:n] = [number[group] for group in each]
    return np.broadcast_to(numbered, (p, numbered.shape[1]))


def read_vectors(batch: Batch, z: Tensors, name: str) -> Array:
    """Check one coefficient vector per problem, (..., n) or a sequence of (n_i,); as (p, n)."""
    p, _, n = batch.A.shape
    if not batch.ragged:
        _check_tensor(name, z)
        try:
            shape = torch.broadcast_shapes(z.shape[:-1], batch.shape)
        except RuntimeError:
            shape = None
        if z.ndim < 1 or z.shape[-1] != n or shape != batch.shape:
            raise ValueError(
                f"{name} must have shape {(*batch.shape, n)} to fit A, got {tuple(z.shape)}"
            )
        (host,) = _to_host([(name, z)])
        return np.broadcast_to(host, (*batch.shape, n)).reshape(p, n)
    named = _check_sequence(name, z, p)
    for (label, tensor), columns in zip(named, batch.columns, strict=True):
        if tensor.shape != (columns,):
            raise ValueError(
                f"{label} must have shape ({columns},) to fit A, got {tuple(tensor.shape)}"
            )
    padded = np.zeros((p, n))
    for row, host in zip(padded, _to_host(named), strict=True):
        row[: len(host)] = host
    return padded


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


def read_matrices(A: Tensor) -> tuple[Array, tuple[int, ...]]:
    """Check a matrix or a batch of them; as (p, m, n), with the shape of the batch."""
    _check_tensor("A", A)
    _check_matrix_shape("A", A)
    (host,) = _to_host([("A", A)])
    return host.reshape(-1, *host.shape[-2:]), host.shape[:-2]


def check_size(form: Form, s: int, groups: Array | None = None) -> None:
    """Check the wanted number of non-zeros against every problem's n, or number of groups."""
    if isinstance(s, bool) or not isinstance(s, int):
        raise ValueError(f"s must be an integer, got {s!r}")
    if groups is not None:
        fewest = int(groups.max(1).min()) + 1
        if not 1 <= s <= fewest:
            raise ValueError(f"s must lie between 1 and the number of groups, {fewest}, got {s}")
    fewest = min(form.columns)
    if not 1 <= s <= fewest:
        raise ValueError(f"s must lie between 1 and n = {fewest}, got {s}")


def _read_ragged(A: Sequence[Tensor], b: Sequence[Tensor]) -> Batch:
    matrices = _check_sequence("A", A, None)
    vectors = _check_sequence("b", b, len(matrices))
    for (name, matrix), (label, vector) in zip(matrices, vectors, strict=True):
        _check_matrix_shape(name, matrix)
        if matrix.ndim != 2:
            raise ValueError(f"{name} must have shape (m, n), got {tuple(matrix.shape)}")
        if vector.shape != matrix.shape[:1]:
            raise ValueError(
                f"{label} must have shape ({matrix.shape[0]},) to fit {name} of shape "
                f"{tuple(matrix.shape)}, got {tuple(vector.shape)}"
            )
    named = matrices + vectors
    dtype, device = _common(named)
    host = _to_host(named)
    p = len(matrices)
    rows = [array.shape[0] for array in host[:p]]
    columns = [array.shape[1] for array in host[:p]]
    padded_A = np.zeros((p, max(rows), max(columns)))
    padded_b = np.zeros((p, max(rows)))
    for i in range(p):
        padded_A[i, : rows[i], : columns[i]] = host[i]
        padded_b[i, : rows[i]] = host[p + i]
    return Batch(
        A=padded_A,
        b=padded_b,
        columns=tuple(columns),
        shape=(p,),
        ragged=True,
        dtype=dtype,
        device=device,
    )


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise ValueError(f"{name} must be real floating-point, got dtype {value.dtype}")


def _check_sequence(name: str, values: object, length: int | None) -> list[tuple[str, Tensor]]:
    """The tensors of a sequence, each with its name for messages."""
    if isinstance(values, Tensor) or not isinstance(values, Sequence):
        wanted = "a tensor or a sequence of tensors" if length is None else "a sequence of tensors"
        raise TypeError(f"{name} must be {wanted}, got {type(values).__name__}")
    if len(values) == 0:
        raise ValueError(f"{name} must not be empty, got a sequence of length 0")
    if length is not None and len(values) != length:
        raise ValueError(f"{name} must hold {length} tensors to fit A, got {len(values)}")
    named = [(f"{name}[{i}]", value) for i, value in enumerate(values)]
    for label, value in named:
        _check_tensor(label, value)
    return named


def _check_is_sequence(name: str, value: object, wanted: str) -> None:
    if not isinstance(value, Sequence):
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
    """All tensors as float64 arrays; one transfer for all of them.

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
