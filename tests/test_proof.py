"""The proof: exact removals pass, every planted fault is caught, and what shows nothing is void."""

from __future__ import annotations

import itertools
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from faults import Case, Fault, case_of, drop, faults, make_case
from graphs import GRAPHS

from evonnx.compaction import Compacted, apply_plan, plan_compaction
from evonnx.dependency import analyse
from evonnx.errors import ProofError
from evonnx.masking import apply_masks
from evonnx.network import load_network, network_of
from evonnx.onnx_io import Detached
from evonnx.proof import Proof, judging, pairing, prove, proving, require
from evonnx.proof.copies import Compared
from evonnx.proof.inputs import feed, first_sizes, second_sizes
from evonnx.proof.judging import POWER, Meeting, Reading, Tally, detail_of, enter, moves_between
from evonnx.proof.levels import gaps_between, is_finite, sizes_of
from evonnx.proof.precision import float32_copy, is_low_precision
from evonnx.sessions import InputSpec, make_session, random_array, run_session

PLANTED = 100


def check(fault: Fault | Case) -> Proof:
    masked = fault.masked.model if isinstance(fault, Case) else fault.masked
    shapes = {"x": [16 if isinstance(dim, str) or dim > 16 else dim for dim in _declared(masked)]}
    return prove(masked, fault.compacted, input_shapes=shapes, threads=1)


def _declared(model: ir.Model) -> list[int | str]:
    shape = model.graph.inputs[0].shape
    assert shape is not None
    return [dim if isinstance(dim, int) else 1 if axis == 0 else str(dim) for axis, dim in enumerate(shape)]


@pytest.mark.parametrize("name", GRAPHS)
def test_exact_removals_pass(name: str) -> None:
    case = make_case(name, seed=5)
    proof = check(case)
    assert proof.passed, proof.reason
    assert not proof.void
    # Rounding to steps makes a step of a last bit.
    assert proof.worst_difference < (0.05 if "quantized_activations" in name else 1e-5)
    require(proof)


def test_planted_faults_are_caught_in_100_of_100_plans() -> None:
    caught: list[str] = []
    missed: list[str] = []
    for name, seed in itertools.product(GRAPHS, range(2)):
        case = make_case(name, seed)
        if case.plan.is_empty():
            continue
        assert check(case).passed, case.label
        planted = list(faults(case, np.random.default_rng(seed)))
        # Turn by turn, so that every kind of fault is planted in many graphs.
        turn = len(caught) % max(1, len(planted))
        for fault in (planted[turn:] + planted[:turn])[:3]:
            proof = check(fault)
            (caught if not proof.passed and not proof.void else missed).append(fault.label)
        if len(caught) + len(missed) >= PLANTED:
            break
    assert missed == []
    assert len(caught) >= PLANTED
    for kind in ("dropped", "replaced", "swapped", "wrong bias", "left alive", "wrong gather"):
        assert any(kind in label for label in caught), kind


def _chain(weights: list[np.ndarray], biases: list[np.ndarray]) -> Case:
    """A Gemm chain with ReLU between; nothing in it is dead."""
    lines, name = [], "x"
    for index in range(len(weights)):
        out = "y" if index == len(weights) - 1 else f"h{index}"
        lines.append(f"{out} = Gemm <transB = 1> ({name}, w{index}, b{index})")
        if out != "y":
            lines.append(f"r{index} = Relu({out})")
            name = f"r{index}"
    text = f"""<ir_version: 8, opset_import: ["" : 13]>
    chain (float[N, {weights[0].shape[1]}] x) => (float[N, {len(weights[-1])}] y) {{ {" ".join(lines)} }}"""
    model = onnx.parser.parse_model(text)
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        for label, array in ((f"w{index}", weight), (f"b{index}", bias)):
            model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), label))
    network = network_of(ir.from_proto(model), "chain")
    return case_of("chain", network, network)


def _hiding(kind: str) -> Case:
    """A chain whose channel 0 of the first layer lives but shows nowhere with the weights as they are."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((6, 4)), rng.standard_normal((6, 6)), rng.standard_normal((3, 6))]
    biases = [rng.standard_normal(len(weight)) for weight in weights]
    if kind == "off":
        biases[0][0] = -1e5
    elif kind == "tiny":
        weights[1][:, 0] = 1e-7
    elif kind == "faded":
        weights = [1e-3 * weight for weight in weights]
        biases[0][0], weights[0][0] = 0.0, 1e-6
    return _chain(weights, biases)


@pytest.mark.parametrize("kind", ["off", "tiny", "faded"])
def test_faults_that_hide_behind_the_weights_are_caught_by_redrawing(kind: str) -> None:
    case = _hiding(kind)
    assert check(case).passed
    (one,) = np.unique(case.coupling.weights["w0"].output[0])
    fault = drop(case, int(one))
    assert fault is not None
    proof = check(fault)
    assert max(detail.difference for detail in proof.details) <= proof.tolerance
    assert max(detail.difference_redrawn for detail in proof.details) > 1e-2
    assert not proof.passed
    assert not proof.void
    with pytest.raises(ProofError, match=r"differ.*with redrawn weights.*Nothing was written"):
        require(proof)


def _compacted(text: str, other: str | None = None) -> tuple[ir.Model, Compacted]:
    masked = network_of(ir.from_proto(onnx.parser.parse_model(text)), "text")
    compacted = apply_plan(masked, plan_compaction(masked, analyse(masked)))
    if other is not None:
        compacted = Compacted(ir.from_proto(onnx.parser.parse_model(other)), {}, compacted.plan)
    return masked.model, compacted


HEAD = '<ir_version: 8, opset_import: ["" : 13]>'


def test_an_output_that_never_reacts_makes_the_proof_void() -> None:
    text = f"""{HEAD} g (float[1, 4] x) => (float[1, 4] y) <float limit = {{1e30}}> {{
        high = Greater(x, limit) y = Cast <to = 1> (high) }}"""
    proof = prove(*_compacted(text), threads=1)
    assert proof.void
    assert not proof.passed
    with pytest.raises(ProofError, match=r"void at 'y'.*nothing was proven"):
        require(proof)


def test_an_output_of_constants_alone_need_not_react() -> None:
    text = f"""{HEAD} g (float[1, 4] x) => (float[1, 4] y, float[2] z) <float[2] c = {{1, 2}}> {{
        y = Neg(x) z = Neg(c) }}"""
    assert prove(*_compacted(text), threads=1).passed


BESIDE = f"""{HEAD} g (float[1, 4, 32] x) => (float[1, 8, 32] y) <float far = {{1000}}, float by = {{1}}> {{
    t = Tanh(x) r = Add(t, far) s = Mul(t, by) y = Concat <axis = 1> (r, s) }}"""


def test_what_is_small_beside_constants_is_held_against_itself() -> None:
    proof = prove(*_compacted(BESIDE), threads=1)
    assert proof.passed, proof.reason
    assert proof.details[0].sensitivity < 1e-2
    assert proof.details[0].power > POWER


@pytest.mark.parametrize(
    "fault", [BESIDE.replace("by = {1}", "by = {1.001}"), BESIDE.replace("far = {1000}", "far = {1000.05}")]
)
def test_faults_that_are_small_beside_constants_are_caught(fault: str) -> None:
    assert fault != BESIDE
    proof = prove(*_compacted(BESIDE, fault), threads=1)
    assert not proof.passed
    assert not proof.void
    assert proof.worst_difference < proof.tolerance


@pytest.mark.parametrize(
    ("constant", "moving", "error", "allowed"),
    [
        (1.0, 1.0, 5e-5, True),  # a twentieth of a thousandth of what moves
        (1.0, 1.0, 1e-3, False),
        (1.0, 1e-2, 1e-6, True),
        (1.0, 1e-2, 2e-5, False),  # though small beside the whole
        (1.0, 0.0, 5e-5, True),  # what does not move is judged on its size
        (1.0, 0.0, 1e-3, False),
        (0.0, 0.0, 1e-6, False),  # nothing but zeros
    ],
)
def test_slices_are_held_against_their_own_moves(
    constant: float, moving: float, error: float, allowed: bool
) -> None:
    rng = np.random.default_rng(0)
    want, other = (rng.uniform(-0.5, 0.5, (3, 40)).astype(np.float32) for _ in range(2))
    for one in (want, other):
        one[1] = constant + moving * one[1]
    want[1, 0], other[1, 0] = constant, constant + moving
    got = want.copy()
    got[1, 7] += error
    meeting = Meeting(Reading(want, 1e-4, moves_between(other, want)), got)
    assert meeting.agrees([]) == allowed
    noisy = want.copy()
    noisy[1, 30] += error
    assert meeting.agrees([noisy])


@pytest.mark.parametrize(
    "shape", [(), (7,), (0, 3), (1, 6, 5, 4), (40, 3), (3, 40), (2, 300, 700), (600, 1, 900)]
)
def test_levels_are_the_largest_of_every_slice(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(shape))
    one, other = (np.asarray(rng.standard_normal(shape), dtype=np.float32) for _ in range(2))
    for found, magnitudes in ((sizes_of(one), np.abs(one)), (gaps_between(one, other), np.abs(one - other))):
        assert found[0].shape == (1,) * len(shape)
        assert found[0].max() == magnitudes.max(initial=0)
        wanted = []
        for axis, length in enumerate(shape):
            if length > 1 and magnitudes.size >= 16 * length:
                others = tuple(place for place in range(len(shape)) if place != axis)
                wanted.append(magnitudes.max(axis=others, keepdims=True))
        assert len(found) == 1 + len(wanted)
        for level, exact in zip(found[1:], wanted, strict=True):
            np.testing.assert_array_equal(level, exact)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows_in_levels(value: float) -> None:
    whole = np.ones((300, 700), np.float32)
    broken = whole.copy()
    broken[299, 3] = value
    assert is_finite(sizes_of(whole))
    assert is_finite(gaps_between(whole, whole))
    assert not is_finite(sizes_of(broken))
    assert not is_finite(gaps_between(broken, whole))
    assert not is_finite(gaps_between(broken, broken))
    meeting = Meeting(Reading(broken, 1e-4, moves_between(whole, broken)), broken.copy())
    assert meeting.agrees([])
    assert not Meeting(Reading(broken, 1e-4), whole).agrees([])
    assert not Meeting(Reading(whole, 1e-4), broken).agrees([])
    changed = broken.copy()
    changed[0, 0] += 1
    assert not Meeting(Reading(broken, 1e-4), changed).agrees([])


def test_of_all_outputs_two_sets_are_in_memory_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(ir.from_proto(GRAPHS["residual_bn"]()), "residual_bn")
    case = case_of("uncut", network, network)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0.0

    def counted(session: object, feeds: object, outputs: list[str] | None = None) -> dict[str, np.ndarray]:
        nonlocal most
        results = run_session(session, feeds, outputs)
        if len(results) > 1:  # not when only a size is tried
            alive.extend(map(weakref.ref, results.values()))
            most = max(most, sum(one() is not None for one in alive) / len(results))
        return results

    monkeypatch.setattr(pairing, "run_session", counted)
    assert prove(case.masked.model, case.compacted, threads=1).passed
    assert most == 2


@pytest.mark.parametrize(
    ("error", "void", "passed"), [(5e-6, False, True), (5e-5, True, False), (1e-3, False, False)]
)
def test_a_small_excess_is_void_and_a_large_one_a_fault(error: float, void: bool, passed: bool) -> None:
    rng = np.random.default_rng(0)
    want, other = (1 + 0.1 * rng.uniform(-1, 1, (2, 40)).astype(np.float32) for _ in range(2))
    tally = Tally(Compared("t", (), "node"))
    reading = Reading(want, 1e-4, moves_between(other, want))
    enter(tally, Meeting(reading, want + np.float32(error)), [], redrawn=True)
    detail = detail_of(tally, set())
    assert (detail.void, detail.passed) == (void, passed), detail


def test_nothing_finite_makes_the_proof_void() -> None:
    text = f"{HEAD} g (float[1, 4] x) => (float[1, 4] y) {{ n = Mul(x, x) m = Neg(n) y = Sqrt(m) }}"
    assert prove(*_compacted(text), threads=1).void


def test_nan_in_the_same_places_is_equal() -> None:
    text = f"{HEAD} g (float[1, 64] x) => (float[1, 64] y) {{ y = Log(x) }}"
    assert prove(*_compacted(text), threads=1).passed


INTEGERS = f"""{HEAD} g (float[1, 9] x) => (int64[1, 3] i, float[1, 3] v) <int64[1] k = {{3}}> {{
    v, i = TopK(x, k) }}"""


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (None, ""),
        (INTEGERS.replace("v, i = TopK(x, k)", "v, j = TopK(x, k) i = Abs(j) p = Neg(i)"), ""),
        (
            INTEGERS.replace("v, i = TopK(x, k)", "v, j = TopK(x, k) i = Neg(j)"),
            "'i'.* differs in .* of its el",
        ),
        (INTEGERS.replace("{3}", "{2}"), r"has shape \[1, 2\] instead of \[1, 3\]"),
        (INTEGERS.replace("v, i = TopK(x, k)", "w, i = TopK(x, k) v = Neg(w)"), "'v'.* differs by"),
        (INTEGERS.replace("v, i = TopK(x, k)", "w, i = TopK(x, k) v = Log(w)"), "not finite at the same"),
        (INTEGERS.replace(", float[1, 3] v", ""), r"has the graph outputs \['i'\] instead of \['i', 'v'\]"),
        (
            INTEGERS.replace("v, i = TopK(x, k)", "v, i = TopK(x, q)"),
            "can't be compared: The model",
        ),
    ],
)
def test_outputs_are_compared_by_kind(other: str | None, reason: str) -> None:
    proof = prove(*_compacted(INTEGERS, other), threads=1)
    assert proof.passed == (not reason), proof
    assert not proof.void
    if reason:
        with pytest.raises(ProofError, match=reason):
            require(proof)


def test_equal_seeds_give_equal_records() -> None:
    case = make_case("residual_bn", 1)
    records = [
        json.dumps(prove(case.masked.model, case.compacted, seed=3, threads=1).to_json()) for _ in "ab"
    ]
    assert records[0] == records[1]
    record = json.loads(records[0])
    assert record["passed"]
    assert record["tensors"] == len(record["details"]) > 5
    assert "tensors agree" in str(check(case))


@pytest.mark.parametrize("name", ["residual_bn", "fp16", "activations", "quantized_activations_integers"])
def test_copies_in_files_prove_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is done with large models; with noise measured, too."""
    monkeypatch.setattr(judging, "_ROUNDING", 0.0)
    monkeypatch.setattr(judging, "_LAST_BIT", 0.0)
    case = make_case(name, 1)
    measured: list[int] = []
    nudged = pairing.nudged_weights

    def counted(*arguments: Any) -> Detached:
        measured.append(len(list(tmp_path.iterdir())))
        return nudged(*arguments)

    monkeypatch.setattr(pairing, "nudged_weights", counted)
    sizes = {"input_shapes": {"x": _declared(case.masked.model)}, "tolerance": 1e-9, "seed": 3, "threads": 1}
    plain = prove(case.masked.model, case.compacted, scratch=tmp_path, **sizes)
    assert measured
    assert not any(measured)
    del measured[:]
    monkeypatch.setattr(proving, "_SPOOL_FROM_BYTES", 0)
    assert prove(case.masked.model, case.compacted, scratch=tmp_path, **sizes) == plain
    assert set(measured) <= {2, 3, 4}  # masked and compact model's; of nudged ones there is none
    monkeypatch.setattr(pairing, "_ALONE_FROM_BYTES", 0)
    assert prove(case.masked.model, case.compacted, scratch=tmp_path, **sizes) == plain
    assert not list(tmp_path.iterdir())


def test_a_failed_record_is_json_too() -> None:
    proof = prove(*_compacted(INTEGERS, INTEGERS.replace("{3}", "{2}")), threads=1)
    assert json.loads(json.dumps(proof.to_json(), allow_nan=False))["passed"] is False


@pytest.mark.parametrize("name", ["fp16", "bfloat16", "fp16_cast"])
def test_float32_copies_compute_the_same(name: str) -> None:
    model = GRAPHS[name]()
    copy = float32_copy(Detached(model)).proto
    assert is_low_precision(model)
    assert not is_low_precision(copy)
    assert model.SerializeToString() == GRAPHS[name]().SerializeToString()
    onnx.checker.check_model(copy, full_check=True)
    spec = InputSpec(
        "x",
        tuple(value.dim_value or 1 for value in model.graph.input[0].type.tensor_type.shape.dim),
        np.dtype("f"),
    )
    x = random_array(spec, spec.shape, np.random.default_rng(0)).astype(np.float16).astype(np.float32)
    wide = run_session(make_session(copy.SerializeToString(), threads=1), {"x": x})["y"]
    assert wide.dtype == np.float32
    if name == "fp16":
        narrow = run_session(make_session(model.SerializeToString(), threads=1), {"x": x.astype(np.float16)})[
            "y"
        ]
        np.testing.assert_allclose(wide, narrow, atol=0.02 * np.abs(wide).max())


def test_a_single_precision_model_needs_no_copy() -> None:
    model = GRAPHS["lenet"]()
    assert not is_low_precision(model)
    assert float32_copy(Detached(model)).proto == model


def _spec(name: str, *shape: int | str | None) -> InputSpec:
    return InputSpec(name, shape, np.dtype(np.float32))


@pytest.mark.parametrize(
    ("specs", "given", "first", "second"),
    [
        ([_spec("x", 1, 3, 8, 8)], {}, [(1, 3, 8, 8)], None),
        ([_spec("x", "N", 7)], {"x": (5, 7)}, [(5, 7)], [(3, 7)]),
        ([_spec("x", None, 3, "h", "w")], {}, [(1, 3, 32, 32)], [(3, 3, 64, 64)]),
        ([_spec("x", "N", 3, "h", "w")], {"x": (1, 3, 1, 1)}, [(1, 3, 32, 32)], [(3, 3, 64, 64)]),
        ([_spec("x", "N", 3, "h", "w")], {"x": (2, 3, 40, 50)}, [(2, 3, 40, 50)], [(3, 3, 72, 82)]),
        ([_spec("x", "b", "t"), _spec("s", 2, "b", 4)], {}, [(1, 32), (2, 1, 4)], [(3, 64), (2, 3, 4)]),
        ([_spec("x", None, None), _spec("s", 2, None, 4)], {}, [(1, 32), (2, 1, 4)], [(3, 64), (2, 3, 4)]),
    ],
)
def test_sizes_that_are_tried_first(
    specs: list[InputSpec],
    given: dict[str, tuple[int, ...]],
    first: list[tuple[int, ...]],
    second: list[tuple[int, ...]] | None,
) -> None:
    names = [spec.name for spec in specs]
    chosen = next(first_sizes(specs, given))
    assert dict(chosen) == dict(zip(names, first, strict=True))
    other = next(second_sizes(specs, chosen), None)
    assert other == (None if second is None else dict(zip(names, second, strict=True)))


def test_a_size_that_the_model_refuses_is_passed_over() -> None:
    text = f"""{HEAD} g (float[N, T] x) => (float[N, M] y) <int64[3] s = {{0, 48, -1}}> {{
        r = Reshape(x, s)
        y = ReduceMax <axes = [2], keepdims = 0> (r) }}"""
    masked, compacted = _compacted(text)
    proof = prove(masked, compacted, input_shapes={"x": (1, 40)}, threads=1)
    assert proof.passed, proof.reason
    assert [size["x"] for size in proof.sizes] == [(1, 96), (3, 192)]


def test_inputs_have_a_level_that_averaging_leaves() -> None:
    specs = [_spec("x", 4, 3, 64, 64), InputSpec("ids", (4,), np.dtype(np.int64))]
    feeds = feed(specs, {"x": (4, 3, 64, 64), "ids": (4,)}, np.random.default_rng(0), 1.0)
    assert feeds["x"].dtype == np.float32
    assert np.abs(feeds["x"].mean(axis=(2, 3))).max() > 0.5
    assert set(feeds["ids"]) <= {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "mnist_cntk",
        "squeezenet_fp16",
        "ultraface_version-RFB-320",
        "yunet_n_320_320",
        "yunet_n_dynamic",
        "silero_vad",
        "silero_vad_16k_op15",
        "winml_pytorch_tutorial_imageclassifier",
    ],
)
def test_real_models_pass_and_their_faults_are_caught(shared_data: Path, name: str) -> None:
    ancestor = load_network(shared_data / "onnx" / f"{name}.onnx")
    rng = np.random.default_rng(0)
    masks = {}
    for layer, weight in ancestor.weights.items():
        mask = np.ones((weight.outputs, weight.inputs_per_group, weight.taps), dtype=np.bool_)
        mask[rng.random(weight.outputs) < 0.2] = False
        masks[layer] = np.ascontiguousarray(weight.from_canonical(mask))
    masked = network_of(apply_masks(ancestor, analyse(ancestor), masks), name)
    case = case_of(name, ancestor, masked)
    proof = prove(masked.model, case.compacted, input_shapes=masked.input_shapes)
    assert proof.passed, proof.reason
    for fault in faults(case, rng):
        assert not prove(fault.masked, fault.compacted, input_shapes=masked.input_shapes).passed, fault.label
