"""Policies that draw architectures, and REINFORCE, which trains them (Williams, 1992).

A policy draws the decisions of an architecture (`isnas.codes.choices`) one after the other; an option that is not
allowed has no probability. Policies are small and stay on the CPU.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..runtime.randomness import seeded
from ..spaces.macro import SKIP_SHARE
from .choices import Choices, Decision


class Sample(NamedTuple):
    """An architecture as a policy sees it."""

    chosen: tuple[int, ...]
    """The decisions, see `isnas.codes.choices.Choices.genotype`."""
    log_prob: Tensor
    """Log probability of these decisions, 0-d, differentiable."""
    entropy: Tensor
    """Sum over the decisions of the entropy of what was drawn from, in nats, 0-d, differentiable."""
    divergence: Tensor
    """Divergence of the skips' distributions from the policy's target, in nats, 0-d, differentiable; see `Policy`."""


class Policy(nn.Module):
    """A distribution over the decisions of an architecture, each given those before it.

    Where decisions are on skips, p the probability of one and t a target, the divergence of a sample is the mean over
    the choices of skips (the layers of a network) of

        sum over the choice's skips of KL((1 - p, p), (1 - t, t)).

    Parameters
    ----------
    choices : Choices
    skip_target : float
        t, above 0, below 1; by default ENAS's.
    """

    def __init__(self, choices: Choices, skip_target: float = SKIP_SHARE) -> None:
        super().__init__()
        self.choices = choices
        self.skip_target = skip_target
        skips = {d.choice for d in choices.decisions if d.what == "skip"}
        self._skip_choices = max(len(skips), 1)

    @abstractmethod
    def logits(self) -> Generator[Tensor, int, None]:
        """Yield the logits, (options,), of one decision after the other; each is answered by the option chosen."""

    def sample(self, random: torch.Generator) -> Sample:
        """Draw an architecture with a generator on the CPU."""

        def draw(chosen: list[int], log: Tensor) -> int:
            return int(torch.multinomial(log.detach().exp(), 1, generator=random))

        return self._follow(draw)

    def log_prob(self, chosen: Sequence[int]) -> Sample:
        """Return what `sample` would have returned, had it drawn these decisions.

        Raises
        ------
        UserError
            When they make up no architecture.
        """
        self.choices.genotype(chosen)
        return self._follow(lambda before, log: chosen[len(before)])

    def _follow(self, choose: Callable[[list[int], Tensor], int]) -> Sample:
        chosen: list[int] = []
        logs: list[Tensor] = []
        entropies: list[Tensor] = []
        divergence = torch.zeros(())
        target = torch.tensor([1 - self.skip_target, self.skip_target]).log()
        decisions = self.logits()
        logits = next(decisions)
        while True:
            allowed = self.choices.allowed(chosen)
            if not all(allowed):
                # finite, so that its product with a probability of 0 is 0, as in the entropy
                logits = logits.masked_fill(~torch.tensor(allowed), torch.finfo(logits.dtype).min)
            log = logits.log_softmax(0)
            option = choose(chosen, log)
            chosen.append(option)
            logs.append(log[option])
            entropies.append(-(log.exp() * log).sum())
            if self.choices.decisions[len(chosen) - 1].what == "skip":
                divergence = divergence + (log.exp() * (log - target)).sum() / self._skip_choices
            if len(chosen) == len(self.choices.decisions):
                decisions.close()
                total = torch.stack(entropies).sum()
                return Sample(tuple(chosen), torch.stack(logs).sum(), total, divergence)
            logits = decisions.send(option)


class SoftmaxPolicy(Policy):
    """Independent logits for each decision, 0 at first: NAS-Bench-201's policy (Dong & Yang, ICLR 2020).

    Decisions depend on each other only through what is allowed.
    """

    def __init__(self, choices: Choices, skip_target: float = SKIP_SHARE) -> None:
        super().__init__(choices, skip_target)
        self.table = nn.ParameterList(torch.zeros(d.options) for d in choices.decisions)

    def logits(self) -> Generator[Tensor, int, None]:
        yield from self.table


class Controller(Policy):
    """The LSTM of ENAS (Pham et al., ICML 2018, and its published code): one layer, without biases.

    Before each decision it reads what was decided last: after an operation a learnt embedding of it; after a source
    that state's anchor, the h of the LSTM when that node was done. (Zeros for the cell's inputs: as in ENAS, later
    decisions do not see which of them was chosen.) A node begins with a learnt token. Operations are drawn by a linear
    head on h, sources by attention: state i, with h_i when it was done (also for inputs), gets the logit
    v' tanh(W h_i + U h). All nodes and kinds of cell share these weights. Where edges have one operation each there are
    no sources to draw: one edge follows the other, as do the decisions of Zoph & Le (ICLR 2017).

    Logits l become tanh_constant * tanh(l / temperature), for operations with a constant op_tanh_reduce times smaller,
    so no option can get all the probability. The initial weights are uniform in [-0.1, 0.1].

    Differences: ENAS draws the two sources of a node before its two operations, and may draw the same place twice; it
    prefers separable convolutions at first, by biases of the operations' logits, which are 0 here.

    Parameters
    ----------
    choices : Choices
    hidden : int
        Units of the LSTM.
    temperature : float
        Above 0.
    tanh_constant : float or None
        None: logits stay as they are.
    op_tanh_reduce : float
    seed : int
        Seed of the initial weights.
    skip_target : float
        See `Policy`.
    """

    def __init__(
        self,
        choices: Choices,
        hidden: int = 64,
        temperature: float = 1.0,
        tanh_constant: float | None = 1.10,
        op_tanh_reduce: float = 2.5,
        seed: int = 0,
        skip_target: float = SKIP_SHARE,
    ) -> None:
        super().__init__(choices, skip_target)
        self.hidden = hidden
        self.temperature = temperature
        self.tanh_constant = tanh_constant
        self.op_tanh_reduce = op_tanh_reduce
        # all operations have the same options
        options = max(d.options for d in choices.decisions if d.what == "operation")
        with seeded(seed, "controller"):
            self.lstm = nn.LSTMCell(hidden, hidden, bias=False)
            self.start = nn.Parameter(torch.empty(1, hidden))
            self.operations = nn.Embedding(options, hidden)
            self.operation_head = nn.Linear(hidden, options)
            if any(d.what in ("source", "skip") for d in choices.decisions):
                self.anchor_keys = nn.Linear(hidden, hidden, bias=False)  # W
                self.query = nn.Linear(hidden, hidden, bias=False)  # U
                self.source_head = nn.Linear(hidden, 1, bias=False)  # v
            for weight in self.parameters():
                nn.init.uniform_(weight, -0.1, 0.1)
            nn.init.zeros_(self.operation_head.bias)

    def logits(self) -> Generator[Tensor, int, None]:
        state: tuple[Tensor, Tensor] | None = None  # h and c, (1, hidden) each
        # of each state of the cell: what the LSTM reads when it is chosen, and what it is chosen by
        values: list[Tensor] = []
        keys: list[Tensor] = []
        reads_states = any(d.what == "source" for d in self.choices.decisions)
        before: Decision | None = None
        x = self.start
        for decision in self.choices.decisions:
            if reads_states and (before is None or before[:2] != decision[:2]):
                if before is not None:
                    state = self.lstm(x, state)
                    values.append(state[0])
                    keys.append(self.anchor_keys(state[0]))
                x = self.start
                if before is None or before.kind != decision.kind:
                    values, keys = [], []
                    for _ in range(self.choices.space.inputs):
                        state = self.lstm(x, state)
                        values.append(torch.zeros_like(x))
                        keys.append(self.anchor_keys(state[0]))
            state = self.lstm(x, state)
            h = state[0]
            if decision.what == "operation":
                option = yield self._tempered(self.operation_head(h)[0], self.op_tanh_reduce)
                x = self.operations.weight[option : option + 1]
            else:
                scores = self.source_head(torch.tanh(torch.cat(keys) + self.query(h)))
                option = yield self._tempered(scores[:, 0], 1.0)
                x = values[option]
            before = decision

    def _tempered(self, logits: Tensor, reduce: float) -> Tensor:
        logits = logits / self.temperature
        if self.tanh_constant is None:
            return logits
        return self.tanh_constant / reduce * torch.tanh(logits)


class SkipController(Controller):
    """ENAS's controller of whole networks (its macro search): a layer's operation, then all its skips at once.

    For each layer the LSTM reads what was decided last and gives the logits of the operations; then it reads the
    operation's embedding, and with the h of that step each state i that a skip can bring gets

        q_i = v' tanh(W a_i + U h),      logits (-q_i, q_i) of no skip and of the skip,

    a_i the anchor of state i: the h of the LSTM when the layer that made it was done; of the stem, after a first step
    on the learnt token. The next layer begins with the sum of the anchors that skips bring, divided by one more than
    their number, or with the learnt token where there were none to decide on.

    Differences: in the published code skip i attends to the anchor of layer i and brings the output of layer i - 1.
    Its penalty takes sigmoid(q_i) for the probability of a skip, which is sigmoid(2 q_i); `Policy` takes the latter.
    """

    def logits(self) -> Generator[Tensor, int, None]:
        x = self.start
        state = self.lstm(x, None)
        anchors = [state[0]]  # (1, hidden) each
        for _, of_layer in itertools.groupby(self.choices.decisions, lambda d: (d.kind, d.node)):
            decisions = list(of_layer)
            for decision in decisions:
                if decision.what == "operation":
                    state = self.lstm(x, state)
                    option = yield self._tempered(
                        self.operation_head(state[0])[0], self.op_tanh_reduce
                    )
                    x = self.operations.weight[option : option + 1]
            state = self.lstm(x, state)
            skips = sum(decision.what == "skip" for decision in decisions)
            x = self.start
            if skips:
                there = torch.cat(anchors[:skips])
                query = self.query(state[0])
                scores = self.source_head(torch.tanh(self.anchor_keys(there) + query))[:, 0]
                brought = []
                for q in scores:
                    brought.append((yield self._tempered(torch.stack([-q, q]), 1.0)))
                chosen = torch.tensor(brought, dtype=there.dtype)
                x = (chosen @ there / (1 + sum(brought)))[None]
            anchors.append(state[0])


def controller(choices: Choices, **options: Any) -> Controller:
    """Return the LSTM that goes with a space, see `Controller` for the options: one of skips where there are any."""
    skips = any(decision.what == "skip" for decision in choices.decisions)
    return (SkipController if skips else Controller)(choices, **options)


class Reinforce:
    """Training of a policy towards architectures with a high reward.

    With the return G = reward + entropy_weight * entropy of a sample and its log probability l, the loss is

        - mean (l * (G - baseline) + entropy_weight * entropy),

    G held constant. The expectation of its gradient is that of -(E reward + entropy_weight * H), where H is the entropy
    of the whole distribution: of -E l. ENAS has the entropy in the return alone; without the second term the gradient
    misses how the entropy of each decision follows from the weights (all there is, where decisions are independent).

    The baseline is a moving average of the returns: after each sample it gets (1 - decay) (G - baseline) nearer to G. A
    sample's own return is not in its baseline, which so leaves the expected gradient as it is. ENAS averages first:
    G - baseline, and with it all of the gradient, is then smaller by the constant factor `decay`. NAS-Bench-201 does
    so, too, and has no first value (``start="corrected"``): all returns so far are weighted by powers of `decay` and
    divided by the sum of the weights, as in Adam's correction of its bias. The first gain is then 0; for the returns
    88 and 85 and a decay of 0.9 the second is 85 - (0.09 * 88 + 0.1 * 85) / 0.19 = -1.42.

    To the loss comes skip_weight times the mean divergence of the samples' skips, see `Policy`.

    Parameters
    ----------
    policy : Policy
    learning_rate : float
        Learning rate of Adam.
    entropy_weight : float
    decay : float
        Decay of the baseline, 0 to 1.
    start : {"zero", "first", "corrected"}
        The first baseline: 0 (ENAS), or the first return, from which then nothing is learnt; corrected: the average of
        the returns so far with the present one (NAS-Bench-201).
    betas : tuple of float, epsilon : float
        Constants of Adam. ENAS's code has (0, 0.999) and 1e-3.
    skip_weight : float
        Weight of the skips' divergence.

    Attributes
    ----------
    baseline : float or None
        None: before the first return, where that is the first baseline.
    weight : float
        Sum of the weights of the returns in the baseline; 1 but for the corrected one.
    """

    def __init__(
        self,
        policy: Policy,
        learning_rate: float = 3.5e-3,
        entropy_weight: float = 1e-4,
        decay: float = 0.99,
        start: Literal["zero", "first", "corrected"] = "zero",
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        skip_weight: float = 0.0,
    ) -> None:
        self.skip_weight = skip_weight
        self.policy = policy
        self.entropy_weight = entropy_weight
        self.decay = decay
        self.corrected = start == "corrected"
        self.baseline: float | None = None if start == "first" else 0.0
        self.weight = 0.0 if self.corrected else 1.0
        self.optimizer = torch.optim.Adam(
            policy.parameters(), lr=learning_rate, betas=betas, eps=epsilon
        )

    def loss(self, samples: Sequence[Sample], rewards: Sequence[float]) -> Tensor:
        """Return the loss of some samples, 0-d. The baseline of each follows from those before; it is not kept."""
        return self._loss(samples, rewards)[0]

    def step(self, samples: Sequence[Sample], rewards: Sequence[float]) -> None:
        """Take one step of the policy's weights for all of some samples, at least one, and move the baseline."""
        loss, self.baseline, self.weight = self._loss(samples, rewards)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def _loss(
        self, samples: Sequence[Sample], rewards: Sequence[float]
    ) -> tuple[Tensor, float | None, float]:
        baseline, weight = self.baseline, self.weight
        terms = []
        for sample, reward in zip(samples, rewards, strict=True):
            gain = reward + self.entropy_weight * float(sample.entropy.detach())
            baseline = gain if baseline is None else baseline
            weight = self.decay * weight + (1 - self.decay)
            moved = baseline + (1 - self.decay) / weight * (gain - baseline)
            advantage = gain - (moved if self.corrected else baseline)
            terms.append(sample.log_prob * advantage + self.entropy_weight * sample.entropy)
            baseline = moved
        divergence = torch.stack([sample.divergence for sample in samples]).mean()
        return self.skip_weight * divergence - torch.stack(terms).mean(), baseline, weight

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on: the policy's weights, Adam's state, the baseline."""
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "baseline": self.baseline,
            "weight": self.weight,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.baseline = state["baseline"]
        self.weight = state.get("weight", 1.0)  # checkpoints of earlier versions
