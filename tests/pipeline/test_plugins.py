"""Plugins in a build: what is placed for them, what TensorRT reads, and what is said."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import onnx
import pytest

from tests.support.onnx_tiny import count
from tests.support.plugin_graphs import Block
from tests.support.tiny_folder import write_texts, write_tokenizer
from tests.support.tiny_transformers import tiny_backbone
from trt_int8.errors import MissingPackageError, PluginError
from trt_int8.graph.half import to_half
from trt_int8.graph.plugin_nodes import fuse_plugins
from trt_int8.model.source import resolve_source
from trt_int8.pipeline import engines
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.plugins import ChosenPlugins, choose_plugins, fuse_twin, plugin_entries
from trt_int8.pipeline.prepare import prepare
from trt_int8.pipeline.profiles import ChosenProfiles
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.plugins.compile import source_sha256
from trt_int8.plugins.toolchain import find_compiler
from trt_int8.spec.build import Flavour
from trt_int8.spec.shapes import parse_shapes

AUTO_WITH_TENSORRT = ChosenPlugins(frozenset({"attention"}), is_auto=True)


def install(
    monkeypatch: pytest.MonkeyPatch, *, version: str = "11.4.0.1", quick: bool = True
) -> None:
    """A TensorRT that has, or has not, what plugins need."""
    module, front_end = ModuleType("tensorrt"), ModuleType("tensorrt.plugin")
    module.__version__ = version  # type: ignore[attr-defined]
    if quick:
        module.QuickPluginCreationRequest = object  # type: ignore[attr-defined]
    module.plugin = front_end  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", front_end)


@pytest.mark.parametrize("flavour", list(Flavour))
def test_off_uses_no_plugin(flavour: Flavour) -> None:
    assert choose_plugins("off", flavour) == ChosenPlugins()


def test_auto_takes_attention_alone_where_tensorrt_has_plugins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch)
    assert choose_plugins("auto", Flavour.TENSORRT) == AUTO_WITH_TENSORRT


def test_auto_takes_none_with_tensorrt_rtx() -> None:
    assert choose_plugins("auto", Flavour.RTX) == ChosenPlugins(is_auto=True)


def test_auto_says_why_a_tensorrt_has_no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, version="10.7.0", quick=False)
    chosen = choose_plugins("auto", Flavour.TENSORRT)
    assert chosen.families == frozenset()
    assert chosen.notes == ("no plugins: tensorrt 10.7.0 cannot take kernels from Python",)


def test_names_are_taken_in_every_flavour(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    for flavour in Flavour:
        chosen = choose_plugins("attention,gelu", flavour)
        assert chosen == ChosenPlugins(frozenset({"attention", "gelu"}))


def test_names_are_refused_where_the_tensorrt_that_is_to_run_them_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, version="10.7.0", quick=False)
    with pytest.raises(PluginError, match="--plugins off"):
        choose_plugins("gelu", Flavour.TENSORRT)


def wide_options(folder: Path, *, plugin_attention: bool, flavour: Flavour) -> BuildOptions:
    """For a BERT with two heads of 80, a size that TensorRT does not fuse."""
    return BuildOptions(
        model=str(folder / "wide"),
        calib=folder / "texts.txt",
        cache=None,
        shapes=parse_shapes("batch=1:2:4,seq=8:16:40"),
        sms=(75,),
        flavour=flavour.value,
        plugin_attention=plugin_attention,
    )


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    tiny_backbone("Bert", hidden_size=160).save_pretrained(folder / "wide")
    write_tokenizer(folder / "wide")
    write_texts(folder / "texts.txt")
    return folder


def prepared_by(options: BuildOptions) -> PreparedModel:
    return prepare(resolve_source(options.model), options, SilentReporter())


def test_auto_places_int8_where_only_the_plugin_computes_it_and_fuses_there(
    wide: Path, tmp_path: Path
) -> None:
    options = wide_options(wide, plugin_attention=True, flavour=Flavour.TENSORRT)
    prepared = prepared_by(options)
    assert prepared.placement == ()
    int8 = to_half(prepared.int8)
    twin = fuse_twin(int8, AUTO_WITH_TENSORRT, prepared, options, tmp_path)
    assert [(e.id, e.nodes) for e in twin.entries] == [("trt_int8::int8_attention_mask", 2)]
    assert len(twin.model.functions) == 2
    assert twin.uses_plugins
    assert twin.engine_path is not None
    bare = onnx.load(str(twin.engine_path))
    assert (len(bare.functions), count(bare, "int8_attention_mask")) == (0, 2)
    assert len(twin.notes) == 1
    for words in ("plugin nodes: 2 attention, ", "no INT8 kernel of its own", "not timed on a GPU"):
        assert words in twin.notes[0]


def test_without_plugins_the_same_attentions_stay_fp16_and_the_note_says_so(
    wide: Path, tmp_path: Path
) -> None:
    options = wide_options(wide, plugin_attention=False, flavour=Flavour.RTX)
    prepared = prepared_by(options)
    assert {note.rule for note in prepared.placement} == {"attention-limits"}
    int8 = to_half(prepared.int8)
    twin = fuse_twin(int8, ChosenPlugins(is_auto=True), prepared, options, tmp_path)
    assert (twin.model, twin.engine_path, twin.entries) == (int8, None, ())
    assert len(twin.notes) == 1
    assert "TensorRT-RTX runs none" in twin.notes[0]


def plain(block: Block) -> PreparedModel:
    """A prepared model that nothing was measured of."""
    twin = block.twin()
    return PreparedModel(twin, twin, None, [], "", ())


def test_auto_leaves_attention_that_tensorrt_fuses_to_it(tmp_path: Path) -> None:
    options = BuildOptions(model="m", sms=(75,), flavour="tensorrt", plugin_attention=True)
    prepared = plain(Block())
    twin = fuse_twin(prepared.int8, AUTO_WITH_TENSORRT, prepared, options, tmp_path)
    assert (twin.model, twin.notes) == (prepared.int8, ())


def test_auto_warns_of_int8_attention_that_nothing_fuses(tmp_path: Path) -> None:
    options = BuildOptions(model="m", sms=(75,), flavour="tensorrt", plugin_attention=True)
    prepared = plain(Block(head_dim=40))
    twin = fuse_twin(prepared.int8, AUTO_WITH_TENSORRT, prepared, options, tmp_path)
    assert twin.notes == (
        "no plugin for 1: Int8Attention got heads of 40 elements (its INT8 matmuls run as"
        " separate kernels): softmax",
    )


def test_tensorrt_rtx_gets_the_bodies_in_place_and_the_manifest_no_kernels(tmp_path: Path) -> None:
    options = BuildOptions(model="m", sms=(75,), flavour="rtx", plugin_attention=True)
    prepared = plain(Block())
    chosen = ChosenPlugins(frozenset({"attention"}))
    twin = fuse_twin(prepared.int8, chosen, prepared, options, tmp_path)
    assert twin.engine_path is not None
    read = onnx.load(str(twin.engine_path))
    assert (len(read.functions), count(read, "Softmax"), twin.uses_plugins) == (0, 1, False)
    assert [entry.variants for entry in twin.entries] == [()]
    assert twin.entries[0].source_sha256 == source_sha256("int8_attention.cu")
    assert "TensorRT-RTX runs none and builds the operators" in twin.notes[0]


@pytest.mark.parametrize(("head_dim", "count"), [(16, 1), (80, 2)])
def test_with_tensorrt_rtx_a_named_plugin_that_costs_the_fused_kernel_is_reported(
    head_dim: int, count: int, tmp_path: Path
) -> None:
    options = BuildOptions(model="m", sms=(75,), flavour="rtx", plugin_attention=True)
    prepared = plain(Block(head_dim=head_dim))
    chosen = ChosenPlugins(frozenset({"attention"}))
    notes = fuse_twin(prepared.int8, chosen, prepared, options, tmp_path).notes
    assert len(notes) == count
    if count == 2:
        assert notes[1].startswith("1 of these attentions are several kernels in TensorRT-RTX")
        assert "--plugins auto" in notes[1]


def test_the_int8_engine_alone_is_built_from_the_other_file(tmp_path: Path) -> None:
    job = engines.EngineJob(
        folder=tmp_path,
        work=tmp_path,
        flavour=Flavour.TENSORRT,
        sms=(None,),
        profiles=ChosenProfiles(((),), ("",)),
        jobs=1,
        timing_cache=None,
        plugin_libraries=(),
        int8_path=tmp_path / "bare.onnx",
        uses_plugins=True,
    )
    requests = engines._requests(job)
    int8, fp16 = requests["local int8"], requests["local fp16"]
    assert (int8.onnx_path, int8.uses_plugins) == (str(tmp_path / "bare.onnx"), True)
    assert (fp16.onnx_path, fp16.uses_plugins) == (str(tmp_path / "model.fp16.onnx"), False)


def test_implicit_int8_uses_no_plugins(tmp_path: Path) -> None:
    options = BuildOptions(model="m", sms=(75,), flavour="tensorrt", implicit_int8="entropy2")
    prepared = plain(Block())
    chosen = ChosenPlugins(frozenset({"attention"}))
    twin = fuse_twin(prepared.int8, chosen, prepared, options, tmp_path)
    assert (twin.model, twin.engine_path) == (prepared.int8, None)
    assert "TensorRT places INT8 by itself" in twin.notes[0]


def has_compiler() -> bool:
    try:
        find_compiler()
    except MissingPackageError:
        return False
    return True


@pytest.mark.skipif(not has_compiler(), reason="no NVRTC and no nvcc")
def test_the_manifest_has_the_ptx_of_each_kernel_that_the_targets_need() -> None:
    fused = fuse_plugins(Block(mask="add", head_dim=80).twin(), ["attention"])
    entry = plugin_entries(fused, (75, 86, 120))[0]
    assert [(v.sm, v.defines["HEAD_DIM"]) for v in entry.variants] == [(75, 80), (80, 80)]
    hashes = [variant.ptx_sha256 for variant in entry.variants]
    assert len(set(hashes)) == 2
    assert {len(digest) for digest in hashes} == {64}


def test_for_a_card_that_is_not_known_nothing_is_compiled() -> None:
    fused = fuse_plugins(Block().twin(), ["attention"])
    assert plugin_entries(fused, (None,))[0].variants == ()
