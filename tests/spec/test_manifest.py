from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from trt_int8.spec.build import Flavour
from trt_int8.spec.manifest import EngineEntry, FileEntry, Manifest, Policy, Verdict
from trt_int8.spec.plugins import PluginEntry, PluginVariant
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.shapes import InputShape


def manifest() -> Manifest:
    return Manifest(
        model="tiny",
        model_sha256="ab",
        calibration_sha256="cd",
        flavour=Flavour.RTX,
        tensorrt_version="1.7",
        engines=(
            EngineEntry(path="sm75/int8.engine", sm=75, precision="int8"),
            EngineEntry(path="local/fp16.engine", sm=None, precision="fp16"),
        ),
        profiles=((InputShape(name="ids", min=(1, 3), opt=(2, 5), max=(7, 11)),),),
        recipe=Recipe(keep=("a*",)),
        policy=Policy(min_coverage=0.5),
        verdict=Verdict(recommended="fp16", failures=("too far",)),
        packages={"onnx": "1", "numpy": "2"},
        plugin_libraries={"libodd.so": "12"},
        files={"b": FileEntry(sha256="ef", size_bytes=3), "a": FileEntry(sha256="", size_bytes=0)},
    )


def test_a_manifest_survives_its_json_form() -> None:
    assert Manifest.model_validate_json(manifest().to_json()) == manifest()


def test_the_order_of_the_files_does_not_change_the_bytes() -> None:
    first = manifest()
    turned = first.model_copy(update={"files": dict(reversed(first.files.items()))})
    assert turned.to_json() == first.to_json()


def test_the_format_stands_in_the_file() -> None:
    assert '"format": "trt_int8-bundle-3"' in manifest().to_json()


def test_the_default_policy_asks_for_full_coverage() -> None:
    assert (Policy().min_coverage, Policy().min_cosine) == (1.0, 0.97)


def test_a_manifest_with_an_unknown_precision_is_refused() -> None:
    text = manifest().to_json().replace('"fp16"', '"fp8"')
    with pytest.raises(ValidationError, match="precision"):
        Manifest.model_validate_json(text)


def test_a_manifest_of_format_1_is_read_as_one_profile() -> None:
    fields = json.loads(manifest().to_json())
    shapes = fields.pop("profiles")[0]
    libraries = fields.pop("plugin_libraries")
    del fields["notes"], fields["overflow"]
    old = json.dumps(
        {**fields, "format": "trt_int8-bundle-1", "shapes": shapes, "plugins": libraries}
    )
    assert Manifest.model_validate_json(old) == manifest()


def test_a_manifest_of_format_1_without_shapes_is_refused() -> None:
    text = manifest().to_json().replace("bundle-3", "bundle-1")
    with pytest.raises(ValidationError, match="format"):
        Manifest.model_validate_json(text)


def test_libraries_of_a_manifest_of_format_2_stay_libraries() -> None:
    fields = json.loads(manifest().to_json())
    fields["plugins"] = fields.pop("plugin_libraries")
    old = json.dumps({**fields, "format": "trt_int8-bundle-2"})
    read = Manifest.model_validate_json(old)
    assert read == manifest()
    assert (read.plugin_libraries, read.plugins) == ({"libodd.so": "12"}, ())


def test_our_plugins_survive_the_json_form() -> None:
    variant = PluginVariant(sm=75, defines={"HEAD_DIM": 80}, ptx_sha256="cd")
    entry = PluginEntry(
        id="trt_int8::int8_attention",
        version="1",
        nodes=12,
        source_sha256="ab",
        variants=(variant,),
    )
    changed = manifest().model_copy(update={"plugins": (entry,)})
    assert Manifest.model_validate_json(changed.to_json()).plugins == (entry,)
