"""Passes with branches against those of one stream: the same numbers, and nothing that is read, given away or collected
before it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from dora_cli.methods.base import Method
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.arithmetic.kernels import TorchKernels
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.low_rank.lean import branches as branches_module
from dora_cli.methods.low_rank.lean import lean_pass as lean_module
from dora_cli.methods.low_rank.lean.branches import Branches, branches_for
from dora_cli.methods.low_rank.lean.projection import LeanProjection
from dora_cli.methods.low_rank.lean.seam import Joint, Seam
from dora_cli.methods.low_rank.lean.seam_pair import SeamPair
from dora_cli.methods.low_rank.same_input.readers import Readers
from dora_cli.methods.low_rank.same_input.together import Together
from tests.methods.low_rank.lean.fake_streams import FakeStreams, LookOut, RoomyKernels, RoomyTogether
from tests.methods.low_rank.test_variants import MAKERS, WIDTH, adapted, drawn
from tests.methods.small import classification, linear_maps, new_lora, sites, small_encoder, tiny_roberta

IDS = torch.randint(3, 40, (6, 9), generator=torch.Generator().manual_seed(2))
TOGETHER = pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])


@pytest.fixture(name="streams")
def _streams(monkeypatch: pytest.MonkeyPatch) -> FakeStreams:
    """Those that all passes of a test use."""
    streams = FakeStreams()
    monkeypatch.setattr(lean_module, "branches_for", lambda *_: Branches(streams))
    return streams


def compute_with(monkeypatch: pytest.MonkeyPatch, together: bool) -> None:
    made = RoomyTogether if together else RoomyKernels
    monkeypatch.setattr(lean_module, "kernels_for", lambda device, *_: made(device))


class Run:
    """Passes over a model with LoRA, whose factors are all drawn anew."""

    def __init__(self, name: str = "roberta", *, dropout: float = 0.2, **settings: Any) -> None:
        if name == "roberta":
            self.model, within = tiny_roberta(), "encoder.layer"
            self.loss: Callable[[nn.Module], torch.Tensor] = lambda model: nn.functional.cross_entropy(
                model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits, torch.arange(6) % 3
            )
        else:
            self.model, within, self.loss = small_encoder(), "blocks", classification()
        self.model.requires_grad_(False)
        self.method: Method = new_lora(rank=3, dropout=dropout, **settings)
        found = sites(linear_maps(self.model, within))
        self.method.attach(self.model, found, [], self.method.plan(100, found))
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        self.model.train()

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.method.groups() for parameter in group.parameters]

    def gradients(self, passes: int = 1) -> list[torch.Tensor]:
        torch.manual_seed(3)
        for _ in range(passes):
            with self.method.training_pass():
                self.loss(self.model).backward()
        found = [parameter.grad.clone() for parameter in self.parameters if parameter.grad is not None]
        for parameter in self.parameters:
            parameter.grad = None
        return found


def of_one_stream(make: Callable[[], Run], passes: int = 1) -> list[torch.Tensor]:
    """What `make` gives where nothing is captured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lean_module, "branches_for", lambda *_: Branches())
        return make().gradients(passes)


def watched(streams: FakeStreams, run: Run, passes: int = 1) -> tuple[LookOut, list[torch.Tensor]]:
    with LookOut(streams) as look_out:
        found = run.gradients(passes)
    return look_out, found


@TOGETHER
@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("name", ["roberta", "home-made"])
def test_a_pass_with_branches_is_that_of_one_stream(
    name: str, passes: int, together: bool, streams: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, also where several micro-batches add up."""
    compute_with(monkeypatch, together)
    expected = of_one_stream(lambda: Run(name), passes)
    look_out, found = watched(streams, Run(name), passes)
    assert look_out.races == []
    assert streams.have_met
    assert min(look_out.launched[stream] for stream in ("main", "sums")) > 10
    assert len(found) == len(expected) > 0
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
    assert all(float(gradient.norm()) > 0 for gradient in found)


@TOGETHER
def test_a_pass_under_autocast(together: bool, streams: FakeStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where inputs and weights are copied into the precision of the arithmetic."""
    compute_with(monkeypatch, together)

    def gradients() -> list[torch.Tensor]:
        run = Run()
        run.model.float()
        torch.manual_seed(3)
        with run.method.training_pass(torch.bfloat16):
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                loss = run.loss(run.model)
            loss.backward()
        return [parameter.grad for parameter in run.parameters if parameter.grad is not None]

    streams.captured = False
    expected, streams.captured = gradients(), True
    with LookOut(streams) as look_out:
        found = gradients()
    assert look_out.races == []
    assert streams.have_met
    assert look_out.launched["sums"]
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


def test_a_pass_under_noise(streams: FakeStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is drawn into one memory for all weights, in the model's stream."""
    compute_with(monkeypatch, False)
    expected = of_one_stream(lambda: Run(flatness=0.1))
    look_out, found = watched(streams, Run(flatness=0.1))
    assert look_out.races == []
    assert look_out.launched["sums"]
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", MAKERS)
def test_chunks_tied_components_and_what_does_not_train(
    kind: str, streams: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_with(monkeypatch, False)
    found = []
    for captured in (False, True):
        streams.captured = captured
        model, adapters = adapted(kind, dropout=0.2)
        model.train()
        x = drawn(8, 3, 5, WIDTH).requires_grad_()
        torch.manual_seed(3)
        with LookOut(streams) as look_out, adapters.training_pass():
            model(x).square().sum().backward()
        assert look_out.races == []
        assert streams.have_met
        assert bool(look_out.launched["sums"]) == (captured and bool(adapters.parameters()))
        found.append([x.grad, *(parameter.grad for parameter in adapters.parameters())])
    for one, two in zip(*found, strict=True):
        assert one is not None
        assert torch.equal(one, two)


def test_calls_of_one_projection_add_up_in_order(streams: FakeStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_with(monkeypatch, False)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.map = adapted_map()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.map(torch.tanh(self.map(x)))  # type: ignore[no-any-return]

    found = []
    for captured in (False, True):
        streams.captured = captured
        model = Twice().train()
        adapters = Adapters(model, {"map": model.map})
        with LookOut(streams) as look_out, adapters.training_pass():
            model(drawn(8, 3, WIDTH)).square().sum().backward()
        assert look_out.races == []
        assert bool(look_out.launched["sums"]) == captured
        found.append([parameter.grad for parameter in adapters.parameters()])
    for one, two in zip(*found, strict=True):
        assert one is not None
        assert torch.equal(one, two)


def adapted_map() -> AdaptedProjection:
    base = nn.Linear(WIDTH, WIDTH, dtype=torch.float64).requires_grad_(False)
    return AdaptedProjection(base, drawn(1, 2, WIDTH), drawn(2, WIDTH, 2), scaling=0.7, dropout=0.0)


@pytest.mark.parametrize("name", ["roberta", "home-made"])
def test_autograd_writes_to_nothing_that_sums_read(
    name: str, streams: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It adds up gradients in the memory of one of them where nobody else has it; residuals pass on the very gradient
    that a projection has been given.
    """
    compute_with(monkeypatch, False)
    copies, compared, plain = dict[int, torch.Tensor](), [0], (Branches.sums, Branches.join)

    def sums(self: Branches, *reads: object) -> Any:
        copies.update((id(one), one.clone()) for one in reads if isinstance(one, torch.Tensor))
        return plain[0](self, *reads)

    def join(self: Branches) -> None:
        for one in (one for reads in self._reads for one in reads if isinstance(one, torch.Tensor)):
            assert torch.equal(one, copies[id(one)])
            compared[0] += 1
        plain[1](self)

    monkeypatch.setattr(Branches, "sums", sums)
    monkeypatch.setattr(Branches, "join", join)
    Run(name, dropout=0.0).gradients()
    assert compared[0] > 20


@TOGETHER
def test_what_a_watch_reads_is_there(together: bool, streams: FakeStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_with(monkeypatch, together)
    run, shown = Run(), list[torch.Tensor]()
    layers = [module for module in run.model.modules() if hasattr(module, "watch")]

    def watch(u: torch.Tensor, v: torch.Tensor) -> None:
        shown.append((u * v).sum())

    for layer in layers:
        layer.watch = watch  # type: ignore[assignment]
    look_out, _ = watched(streams, run)
    assert len(shown) == len(layers) == 12
    assert look_out.races == []


@pytest.mark.parametrize("reentrant", [True, False])
def test_forward_passes_within_the_backward_pass(
    reentrant: bool, streams: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradient checkpointing, whose forward passes come between one call's sums and the next one's."""
    compute_with(monkeypatch, False)
    run = Run()
    run.model.get_input_embeddings().weight.requires_grad_(True)  # type: ignore[operator]
    expected = run.gradients()
    run.model.gradient_checkpointing_enable({"use_reentrant": reentrant})  # type: ignore[operator]
    look_out, found = watched(streams, run)
    assert look_out.races == []
    assert streams.have_met
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("joined", [False, True], ids=["alone", "joined"])
def test_what_compiled_code_gives_an_operator_is_kept(
    joined: bool, streams: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such code gives memory back as soon as an operator has returned."""
    compute_with(monkeypatch, joined)
    run = Run("home-made")
    layers = [run.model.blocks[0].att, run.model.blocks[0].up]  # type: ignore[index, union-attr]
    x = torch.randn(7, 10, dtype=torch.float64, requires_grad=True)
    seams = [Seam(layer) for layer in layers]
    with LookOut(streams) as look_out, run.method.training_pass():
        if joined:
            lean = run.method._adapters._passes._lean
            places = {lean.layers.index(layer): str(number) for number, layer in enumerate(layers)}
            lean.put_together(Readers([[*places.values()]]), places)
            assert len(lean._together) == 1
        for seam in seams:
            seam.begin(None)
        if joined:
            Joint(seams).begin()
        y = torch.cat([seam(x) for seam in seams], 1)
        y.square().sum().backward()
        assert not streams.have_met
    assert streams.have_met
    assert look_out.races == []
    assert look_out.launched["sums"] >= (1 if joined else 2)


def test_what_it_gives_the_operators_of_a_pair_is_kept(streams: FakeStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_with(monkeypatch, False)
    run = Run("home-made")
    block, gelu = run.model.blocks[0], nn.GELU()  # type: ignore[index]
    x = torch.randn(7, 10, dtype=torch.float64, requires_grad=True)
    seams = [Seam(block.up), Seam(block.down)]  # type: ignore[union-attr]
    pair = SeamPair(seams[0], gelu, seams[1])
    with LookOut(streams) as look_out, run.method.training_pass():
        for seam in seams:
            seam.begin(None)
        pair.begin()
        seams[1](gelu(seams[0](x))).square().sum().backward()
        pair.end()
        assert not streams.have_met
    assert streams.have_met
    assert look_out.races == []
    assert look_out.launched["sums"] >= 4


def skip(self: Branches, *args: object) -> None:
    """Waits for nothing."""


@contextmanager
def _add_at_once(self: Branches, streams: FakeStreams, reads: object) -> Iterator[None]:
    self._reads.append((reads,))
    with streams.into(streams.sums):
        yield
    self._mark = streams.sums.record_event()


def _forgetful(plain: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, streams, reads: plain(self, streams, ())


MISTAKES: dict[str, tuple[str, Any]] = {
    "nobody waits for the sums": ("join", skip),
    "sums wait for nothing": ("_add", _add_at_once),
    "what sums read is not kept": ("_add", _forgetful(Branches._add)),
}


@TOGETHER
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_look_out_sees_what_goes_wrong(
    mistake: str, together: bool, streams: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_with(monkeypatch, together)
    monkeypatch.setattr(Branches, *MISTAKES[mistake])
    look_out, _ = watched(streams, Run("roberta"))
    assert look_out.races


@pytest.mark.parametrize("fails", ["projection", "hook"])
@TOGETHER
def test_a_pass_that_fails_leaves_nothing_open(
    together: bool, fails: str, streams: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the end of the capture would hide what went wrong."""
    compute_with(monkeypatch, together)
    run, open_then = Run("home-made"), list[bool]()

    def fail(*_: object) -> None:
        open_then.append(not streams.have_met)
        raise ValueError("planted")

    if fails == "projection":
        for kind in (LeanProjection, Together):
            plain = kind.differentiate
            monkeypatch.setattr(kind, "differentiate", lambda *args, plain=plain: fail(plain(*args)))
    else:
        run.model.blocks[0].register_forward_hook(  # type: ignore[index, union-attr]
            lambda module, inputs, output: output.register_hook(fail) and None
        )
    with pytest.raises(ValueError, match="planted"), LookOut(streams):
        run.gradients()
    assert open_then
    assert all(open_then)
    assert streams.have_met


def test_a_capture_that_is_lost_keeps_its_error(streams: FakeStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_with(monkeypatch, False)
    run = Run("home-made")

    def lost(event: object) -> None:
        raise RuntimeError("the capture is lost")

    def fail(*_: object) -> None:
        monkeypatch.setattr(streams.main, "wait_event", lost)
        raise ValueError("planted")

    run.model.blocks[0].register_forward_hook(  # type: ignore[index, union-attr]
        lambda module, inputs, output: output.register_hook(fail) and None
    )
    with pytest.raises(ValueError, match="planted"):
        run.gradients()


def test_what_sums_read_is_kept_as_long_as_the_pass(streams: FakeStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_with(monkeypatch, False)
    kept, plain = list[int](), Branches.join

    def join(self: Branches) -> None:
        kept.append(len(self._reads))
        plain(self)
        kept.append(len(self._reads))

    monkeypatch.setattr(Branches, "join", join)
    Run().gradients()
    assert kept == [12, 0]


@pytest.mark.parametrize("why", ["not captured", "told to be serial"])
def test_one_stream(why: str, streams: FakeStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_with(monkeypatch, False)
    run = Run()
    streams.captured = why != "not captured"
    run.method._adapters._passes.serial = why == "told to be serial"  # type: ignore[attr-defined]
    look_out, _ = watched(streams, run)
    assert set(look_out.launched) == {"main"}


def test_the_cpu_and_plain_operations_have_one_stream() -> None:
    """On CUDA too: their products would each have a workspace for every stream."""
    for device in ("cpu", "cuda"):
        branches = branches_for(TorchKernels(torch.device("cpu")), torch.device(device))
        branches.begin()
        assert isinstance(branches.sums(), nullcontext)


def test_kernels_that_launch_alone_have_branches_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = TorchKernels(torch.device("cpu"))
    kernels.launches = True
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(branches_module, "_cuda_streams", lambda device: FakeStreams())
    for device, has_some in (("cuda", True), ("cpu", False)):
        branches = branches_for(kernels, torch.device(device))
        branches.begin()
        assert isinstance(branches.sums(), nullcontext) is not has_some
