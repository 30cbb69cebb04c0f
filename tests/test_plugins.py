"""Plugins: found by name, loaded when asked for, broken ones listed; and the built-in ones held to the
contracts that everybody's are."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points

import pytest
from graph_builder import Builder
from graphs import GRAPHS

from evonnx import plugins
from evonnx.dependency.rules import rules_by_operator
from evonnx.environment import MacBudget, SynapseBudget
from evonnx.errors import PluginError
from evonnx.plugins import KINDS, Plugin, get, load_object, plugins_of
from evonnx.testing import DependencyRuleContract, EncodingContract, EnvironmentFactorContract, ToyAdapter


class Distribution:
    """As much of a distribution as an entry point needs."""

    def __init__(self, name, version="1.0"):
        self.metadata, self.version = {"Name": name}, version
        self.name = name


def point(name, value, distribution, kind="adapters"):
    found = EntryPoint(name, value, f"evonnx.{kind}")
    vars(found)["dist"] = Distribution(distribution)
    return found


TOY = "evonnx.testing:ToyAdapter"


def test_the_built_in_ones_come_in_by_the_same_door():
    assert {"torch", "jax", "command"} <= set(plugins.adapters())
    assert {"cluster-driven", "synaptic", "adaptive"} <= set(plugins.encodings())
    assert "synapses" in plugins.environment_factors()
    assert "convolution" in plugins.dependency_rules()
    assert {"classification", "detection", "distillation"} <= set(plugins.tasks())
    assert {"mlflow", "tensorboard"} <= set(plugins.trackers())


@pytest.mark.parametrize("kind", KINDS)
def test_every_installed_plugin_loads(kind):
    for name, plugin in plugins_of(kind).items():
        if name in ("torch", "mlflow", "tensorboard"):
            pytest.importorskip(name, reason=f"the extra `{name}` is not installed")
        assert plugin.error is None
        assert plugin.version
        assert plugin.note == ""
        assert get(kind, name) is plugin.load()


def test_listing_imports_nothing():
    code = (
        "import sys; from evonnx import plugins; "
        "names = [name for kind in plugins.KINDS for name in plugins.plugins_of(kind)]; assert 'torch' in "
        "names; "
        "heavy = {'torch', 'jax', 'ray', 'onnxruntime', 'evonnx_torch', 'evonnx_jax', 'onnx'}; "
        "heavy &= set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("adapters", "troch", "There is no adapter called 'troch'. Did you mean 'torch'?"),
        ("adapters", "zzz", "There is no adapter called 'zzz'. Installed: "),
        ("encodings", "adaptiv", "Did you mean 'adaptive'?"),
        ("tasks", "clasification", "no task called 'clasification'. Did you mean 'classification'?"),
        ("environment_factors", "synapse", "no environment factor called"),
        ("dependency_rules", "conv", "no dependency rule called"),
        ("adapters", "no_such_module:Adapter", "importing no_such_module failed with ModuleNotFoundError"),
        ("adapters", "evonnx.testing:ToyAdaptor", "Did you mean 'ToyAdapter'?"),
        ("adapters", "missing.py:Adapter", "there is no file"),
        ("adapters", "evonnx.testing:", "names no code"),
        ("adapters", ":Adapter", "names no code"),
    ],
)
def test_unknown_names_are_errors(kind, name, says):
    with pytest.raises(PluginError) as caught:
        get(kind, name)
    assert says in str(caught.value)


def test_any_class_can_be_named(tmp_path, monkeypatch):
    assert get("adapters", TOY) is ToyAdapter
    (tmp_path / "mine.py").write_text("class Outer:\n    class Adapter: ...\n")
    monkeypatch.chdir(tmp_path)
    found = get("adapters", "mine.py:Outer.Adapter")
    assert found.__name__ == "Adapter"
    assert get("adapters", "mine.py:Outer.Adapter") is found  # one module, however often it is asked for


def test_two_files_of_one_name_do_not_clash(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"value = {folder!r}")
    assert [load_object("mine.py:value", tmp_path / folder) for folder in ("a", "b")] == ["a", "b"]


def test_a_file_that_failed_is_run_again_once_repaired(tmp_path):
    (tmp_path / "mine.py").write_text("value = 1 / 0")
    with pytest.raises(PluginError, match=r"running .*mine\.py failed with ZeroDivisionError"):
        load_object("mine.py:value", tmp_path)
    (tmp_path / "mine.py").write_text("value = 'repaired'")
    assert load_object("mine.py:value", tmp_path) == "repaired"


BROKEN = [
    ("no_such_module_at_all:Adapter", "ModuleNotFoundError"),
    ("evonnx.testing:NoSuchAdapter", "AttributeError"),
    ("broken_plugin:Adapter", "RuntimeError: half installed"),
    ("exiting_plugin:Adapter", "SystemExit"),
]


@pytest.mark.parametrize(("value", "says"), BROKEN)
def test_broken_plugins_are_listed_with_their_error(tmp_path, monkeypatch, value, says):
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('half installed')")
    (tmp_path / "exiting_plugin.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    listed = plugins_of("adapters", [point("bad", value, "somebody"), point("good", TOY, "somebody")])
    assert says in str(listed["bad"].error)
    assert "'bad' of somebody 1.0" in str(listed["bad"].error)
    assert listed["good"].error is None
    with pytest.raises(PluginError, match="Repair or remove the distribution 'somebody'"):
        listed["bad"].load()


def test_a_missing_extra_of_our_own_is_named():
    plugin = Plugin("torch", "adapters", "evonnx", "0.1.0", "no_such_module_at_all:TorchAdapter")
    assert "pip install 'evonnx[torch]'" in str(plugin.error)


def test_names_offered_twice_are_reported():
    points = [
        point("torch", "b:B", "zeta"),
        point("torch", "a:A", "alpha"),
        point("torch", TOY, "evonnx"),
        point("mine", "m:M", "zeta"),
        point("mine", "n:N", "alpha"),
        point("mine", "o:O", "alpha"),
    ]
    listed = plugins_of("adapters", points)
    assert {name: plugin.value for name, plugin in listed.items()} == {
        "torch": TOY,
        "mine": "n:N",
        "mine@alpha": "o:O",
        "mine@zeta": "m:M",
        "torch@alpha": "a:A",
        "torch@zeta": "b:B",
    }
    assert "alpha offers this name too, as 'torch@alpha'" in listed["torch"].note
    assert "'torch@zeta'" in listed["torch"].note
    assert listed["torch@zeta"].note == "the name 'torch' belongs to evonnx"
    assert listed["torch"].error is None
    assert plugins_of("adapters", points[::-1]).keys() == listed.keys()


def test_a_tree_that_is_not_installed_says_so(monkeypatch):
    monkeypatch.setattr(plugins, "entry_points", lambda group: [])
    with pytest.raises(PluginError, match=r"Installed: none\..*`pip install -e \.`"):
        get("adapters", "torch")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point("other", TOY, "somebody")])
    with pytest.raises(PluginError, match=r"Installed: other\..*entry points are not installed"):
        get("adapters", "torch")
    assert get("adapters", "other") is ToyAdapter


# --- the built-in ones under everybody's contract


def flattened_by_shape():
    """Flattened with a Reshape to [Shape[0], -1], as PyTorch exports `x.view(x.size(0), -1)`."""
    b = Builder(["N", 1, 8, 8])
    y = b.node("Relu", b.conv("x", 1, 6, 3))
    batch = b.node("Gather", b.node("Shape", y), b.ints(0), axis=0)
    y = b.node("Reshape", y, b.node("Concat", batch, b.ints(-1), axis=0))
    b.output(b.gemm(y, 6 * 8 * 8, 4), ["N", 4], "y")
    return b.model()


@pytest.mark.parametrize("name", sorted(point.name for point in entry_points(group="evonnx.encodings")))
class TestEncodings(EncodingContract):
    @pytest.fixture
    def encoding(self, name):
        return get("encodings", name)


@pytest.mark.parametrize("kind", [SynapseBudget, MacBudget])
class TestEnvironmentFactors(EnvironmentFactorContract):
    @pytest.fixture
    def factor(self, kind):
        return kind()


@pytest.mark.parametrize(
    "name", sorted(point.name for point in entry_points(group="evonnx.dependency_rules"))
)
class TestDependencyRules(DependencyRuleContract):
    @pytest.fixture
    def rule(self, name):
        return get("dependency_rules", name)()

    @pytest.fixture
    def models(self, rule):
        """Up to three of the suite's graphs that hold an operator of the rule, those with most of them
        first."""
        graphs = [flattened_by_shape(), *(build() for _, build in sorted(GRAPHS.items()))]
        shared = [(len(rule.operators & {node.op_type for node in one.graph.node}), one) for one in graphs]
        found = [one for count, one in sorted(shared, key=lambda pair: -pair[0]) if count]
        return found[:3]

    def test_is_installed_and_shown(self, rule, models):
        """The suite's own graphs show only some operators of each rule."""
        assert {type(rules_by_operator()[one]) for one in rule.operators} == {type(rule)}
        assert models, "no graph of the suite holds an operator of this rule"
