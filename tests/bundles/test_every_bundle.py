"""What every bundle of the project must hold, whoever adds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from monai.bundle import ConfigParser, verify_net_in_out

from crossmoda.labels import channel_def

BUNDLES = sorted(p for p in (Path(__file__).resolve().parents[2] / "bundles").iterdir() if (p / "configs").is_dir())
OWN_FILES = {"train.yaml", "inference.yaml", "singan_train.yaml", "tumour_blending.yaml"}
OVERLAYS = [
    pytest.param(bundle, path, id=f"{bundle.name}/{path.name}")
    for bundle in BUNDLES
    for path in sorted((bundle / "configs").glob("*.yaml"))
    if path.name not in OWN_FILES
]


@pytest.fixture(params=BUNDLES, ids=lambda bundle: bundle.name)
def bundle(request: pytest.FixtureRequest) -> Path:
    return request.param


def metadata(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "configs" / "metadata.json").read_text())


@pytest.mark.parametrize("name", ["cet1_to_hrt2_translation", "vs_cochlea_hrt2_segmentation"])
def test_monai_finds_the_network_as_the_metadata_describe_it(name: str) -> None:
    """``verify_net_in_out`` raises where shapes, channels or types differ; the loop has no network of its own."""
    configs = BUNDLES[0].parent / name / "configs"
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.yaml")}
    verify_net_in_out("network_def", device="cpu", **files)


def test_three_bundles_are_found() -> None:
    assert [bundle.name for bundle in BUNDLES] == [
        "cet1_to_hrt2_translation",
        "vs_cochlea_hrt2_segmentation",
        "vs_cochlea_self_training",
    ]


def test_a_bundle_has_all_its_files(bundle: Path) -> None:
    wanted = ["LICENSE", "docs/README.md"]
    configs = ("train.yaml", "inference.yaml", "evaluate.yaml", "multi_gpu_train.yaml", "metadata.json", "logging.conf")
    wanted += [f"configs/{name}" for name in configs]
    assert [name for name in wanted if not (bundle / name).is_file()] == []
    assert "Apache License" in (bundle / "LICENSE").read_text()


def test_metadata_fits_the_schema_and_its_version_is_in_the_changelog(bundle: Path) -> None:
    schema = json.loads((Path(__file__).parent / "metadata_schema.json").read_text())
    jsonschema.validate(metadata(bundle), schema)
    assert metadata(bundle)["version"] in metadata(bundle)["changelog"]
    assert "meta_schema_20240725.json" in metadata(bundle)["schema"]


def test_a_segmenter_s_channels_are_named_as_the_labels_module_names_them() -> None:
    for name in ("vs_cochlea_hrt2_segmentation", "vs_cochlea_self_training"):
        folder = next(bundle for bundle in BUNDLES if bundle.name == name)
        outputs = metadata(folder)["network_data_format"]["outputs"]["pred"]
        assert outputs["channel_def"] == channel_def(["vs", "cochlea"])
        assert outputs["num_channels"] == 3


def test_a_bundle_holds_no_code_and_no_path_of_a_machine(bundle: Path) -> None:
    assert list(bundle.rglob("*.py")) == []
    for path in (bundle / "configs").glob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        values = [value for value in content.values() if isinstance(value, str)]
        assert not [value for value in values if value.startswith("/")], path


@pytest.mark.parametrize(("bundle", "overlay"), OVERLAYS)
def test_an_overlay_says_after_what_it_is_used_and_parses_there(bundle: Path, overlay: Path) -> None:
    first = overlay.read_text().splitlines()[0]
    assert first.startswith("# Use after"), first
    base = "inference.yaml" if "inference.yaml" in first else "train.yaml"
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / base), str(overlay)])
    parser.parse()
    assert set(yaml.safe_load(overlay.read_text()))


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_every_number_that_looks_like_a_number_is_one(bundle: Path, kind: str) -> None:
    """YAML takes 1e-4 for a text."""

    def texts(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for item in value.values() for text in texts(item)]
        if isinstance(value, list):
            return [text for item in value for text in texts(item)]
        return [value] if isinstance(value, str) else []

    def is_number(text: str) -> bool:
        try:
            float(text)
        except ValueError:
            return False
        return True

    content = yaml.safe_load((bundle / "configs" / f"{kind}.yaml").read_text())
    assert [text for text in texts(content) if is_number(text)] == []
