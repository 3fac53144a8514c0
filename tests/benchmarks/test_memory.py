import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.fake_models import FakeTensors
from benchmarks.memory import CONTEXT, LIMITS, SLACK, Job, Row, ShapesMeter, jobs, measure
from benchmarks.memory_tracker import MemoryTracker, gpu_workspace
from mcti_core.hosts.checkpointing import checkpointed

KILO = 250
"""Float32 elements that take 1000 bytes."""


def small_unet():
    """Convolutions, group norms, attention to itself and to a text, and skip connections: 64 channels at most."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=48, attention_head_dim=8,
        norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    return unet.eval().requires_grad_(False)


def step_of(unet, count=2):
    """Forward and backward to the text; and what goes in."""
    generator = torch.Generator().manual_seed(0)
    latents, text = (torch.randn(count, *shape, generator=generator) for shape in ((4, 16, 16), (77, 48)))
    text.requires_grad_()

    def step(run=lambda x, t, c: unet(x, t, encoder_hidden_states=c).sample):
        (gradient,) = torch.autograd.grad(run(latents, torch.ones(count).long(), text).square().mean(), text)
        return gradient

    return step, [latents, text]


def weights(module):
    return [*module.parameters(), *module.buffers()]


def test_what_lives_is_counted_until_it_dies():
    tracker, x = MemoryTracker(), torch.zeros(KILO)
    with tracker:
        y = x + 1
        assert tracker.now == 2000  # what an operation takes, and what it makes
        z = y * 2
        assert tracker.now == 3000
        del y
        assert tracker.now == 2000
        del z, x
        assert (tracker.now, tracker.peak) == (0, 3000)


def test_views_and_writing_in_place_take_nothing():
    tracker = MemoryTracker()
    with tracker:
        x = torch.zeros(4, KILO)
        view = x[1:3].view(-1)
        view += 1
        x.relu_()
        assert (tracker.now, tracker.peak) == (4000, 4000)
        del x
        assert tracker.now == 4000  # the view keeps all of it
        del view
        assert tracker.now == 0


def test_what_backward_needs_is_counted():
    with MemoryTracker() as tracker:
        x = torch.zeros(KILO, requires_grad=True)
        y = x.exp().exp().exp()  # exp keeps its result
        assert tracker.now == 4000
        y = x.detach().exp().exp().exp()
        assert tracker.now == 2000
        assert y.shape == x.shape


def test_weights_that_wait_count_too_and_what_is_left_out_does_not():
    tracker, waiting, twin = MemoryTracker(), torch.zeros(KILO), torch.zeros(KILO)
    tracker.hold([waiting, waiting.view(5, -1)])
    tracker.leave_out(twin)
    with tracker:
        twin.neg_()
    assert (tracker.now, tracker.peak) == (1000, 1000)


def test_the_peak_starts_again():
    tracker = MemoryTracker()
    with tracker:
        x = torch.zeros(KILO)
        x.add(1)
        assert tracker.peak == 2000
        tracker.start_again()
        assert tracker.peak == 1000


def test_kernels_own_memory_is_part_of_the_peak_only():
    x, weight = torch.zeros(1, 5, 5, 10), torch.zeros(5, 5, 1, 1)  # 1000 and 100 bytes
    with MemoryTracker(gpu_workspace) as tracker:
        F.conv2d(x, weight)
    assert tracker.peak == 2 * (1000 + 100 + 1000)
    assert tracker.now == 1100


def test_a_step_takes_what_the_allocator_says_it_takes():
    unet = small_unet()
    step, given = step_of(unet)
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)

    tracker = MemoryTracker()
    tracker.hold([*weights(unet), *given])
    before = tracker.now
    with tracker:
        step()
    assert most > 3e6
    assert tracker.peak - before == pytest.approx(most, rel=0.01)


def test_shapes_take_what_numbers_take():
    unet = small_unet()
    step, given = step_of(unet)
    numbers = MemoryTracker()
    numbers.hold([*weights(unet), *given])
    with numbers:
        true = step()

    shapes = MemoryTracker()
    fakes = FakeTensors(shapes)
    with fakes.fake:
        empty = small_unet()
    shapes.hold([*weights(empty), *given])
    before = shapes.now
    run = fakes.faked(lambda x, t, c: empty(x, t, encoder_hidden_states=c).sample)
    with shapes:
        gradient = step(run)
    assert shapes.peak == pytest.approx(numbers.peak, rel=0.01)
    assert gradient.shape == true.shape
    assert gradient.dtype == true.dtype
    assert not gradient.any()
    del gradient
    assert shapes.now == before


@pytest.fixture(scope="module")
def taken():
    """Bytes beside weights, by images at once, of a step without and with gradient checkpointing."""
    tracker = MemoryTracker()
    fakes = FakeTensors(tracker)
    with fakes.fake:
        unet = small_unet()
    tracker.hold(weights(unet))
    blocks = [block for block in unet.modules() if type(block).__name__ in ("ResnetBlock2D", "BasicTransformerBlock")]

    def most(count):
        step, _ = step_of(unet, count)
        before = tracker.now
        tracker.start_again()
        with tracker:
            step(fakes.faked(lambda x, t, c: unet(x, t, encoder_hidden_states=c).sample))
        return tracker.peak - before

    without = {count: most(count) for count in (2, 4, 8)}
    with checkpointed(blocks):
        return without, {count: most(count) for count in (2, 4, 8)}


def test_images_at_once_take_as_much_each(taken):
    for most in taken:
        assert most[8] - most[4] == pytest.approx(2 * (most[4] - most[2]), rel=0.01)
        assert most[8] == pytest.approx(4 * most[2], rel=0.05)


def test_checkpointing_takes_less_than_half(taken):
    without, few = taken
    assert few[8] < without[8] / 2


def test_a_twin_is_not_counted_again():
    tracker = MemoryTracker()
    fakes = FakeTensors(tracker)
    with fakes.enabled():
        twin = fakes.fake_copy(torch.zeros(KILO))
        made = twin + 1
    assert (tracker.now, made.shape) == (1000, twin.shape)


def test_fake_part_reads_no_values_and_the_rest_is_real():
    fakes = FakeTensors(MemoryTracker())
    with fakes.fake:
        layer = nn.Linear(3, 5)
    run = fakes.faked(lambda x, scale, absent=None: {"y": layer(x["x"]).half() * scale, "absent": absent, "n": 7})
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            found = run({"x": torch.ones(2, 3)}, 2.0)
            assert found["y"].tolist() == [[0.0] * 5] * 2
        assert (found["y"].dtype, found["absent"], found["n"]) == (torch.float16, None, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("heads", "width"), [(8, 40), (8, 80), (8, 160), (10, 64), (1, 512)])
def test_attention_keeps_no_square_of_the_length(dtype, heads, width):
    """As kernels on a GPU do; with a square, all figures would be far too large."""
    tracker, length = MemoryTracker(), 1024
    fakes = FakeTensors(tracker)
    with fakes.fake, tracker:
        q, k, v = (torch.zeros(2, heads, length, width, dtype=dtype, requires_grad=True) for _ in range(3))
        out = F.scaled_dot_product_attention(q, k, v)
        assert tracker.now == 4 * 2 * heads * length * width * 2 + 2 * heads * length * 4  # q, k, v, out; a sum a row
        assert tracker.peak == tracker.now
        assert out.shape == q.shape


def test_what_a_card_must_have_holds_against_the_target():
    job = Job("train", "train, images", 1, lambda: None, True)
    row = Row("sd15", "bf16", job, int(2e9), int(5e9))
    assert row.card == 5e9 * SLACK + CONTEXT
    told = row.as_dict()
    assert (told["weights"], told["activations"], told["peak"], told["card"]) == (2.0, 3.0, 5.0, 6.0)
    assert told["target"] == "6: fits"
    assert Row("sd15", "bf16", job, int(2e9), int(5.1e9)).as_dict()["target"] == "6: too much"
    assert Row("sd15-small", "bf16", job, 0, 1).as_dict()["target"] is None


@pytest.fixture(scope="module")
def small():
    return ShapesMeter("sd15-small", "bf16")


@pytest.mark.slow
def test_every_job_runs_and_leaves_nothing(small):
    seen = set()
    for job in jobs(small.host, quick=True):
        assert small.peak(job.run) > small.weights
        seen.add(job.kind)
    del job  # and the examples that it was given
    gc.collect()
    assert small.tracker.now - small.weights == 2 * small.host.denoiser.sigmas.nbytes  # and their logarithms
    assert seen == {"train", "cache", "classify"}


@pytest.mark.slow
def test_stable_diffusion_trains_in_6_gb_and_classifies_in_4():
    meter = ShapesMeter("sd15", "bf16")
    rows = list(measure(meter, "sd15", "bf16", (job for job in jobs(meter.host) if _promised(job))))
    assert len(rows) == 6
    assert [row.as_dict() for row in rows if row.card > LIMITS["sd15", row.job.kind] * 1e9] == []


@pytest.mark.slow
def test_sdxl_trains_in_12_gb():
    meter = ShapesMeter("sdxl", "bf16")
    job = next(job for job in jobs(meter.host) if job.checkpointing and job.at_once == 1)
    assert next(measure(meter, "sdxl", "bf16", iter([job]))).card < LIMITS["sdxl", "train"] * 1e9


def _promised(job):
    """Training with as much at once as is told, all else as it comes."""
    return job.at_once == ((8 if job.checkpointing else 2) if job.kind == "train" else "default")
