"""torchhub: models of repositories, each with a hubconf.py that the test writes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from clipzoo import experts, recipe, tasks
from clipzoo.errors import ExpertError
from clipzoo.experts import torchhub
from making import image

HUBCONF = '''
dependencies = ["torch"]
import torch
from hub_tiny_net import Net

def normals(seed=0):
    return Net(seed, 4)

def nested(seed=0):
    return Nested(Net(seed, 4))

def pictures():
    return Pictures()

def broken():
    raise OSError("no such checkpoint")

class Nested(torch.nn.Module):
    """As Metric3D: a dictionary in, three values out, the last of them a dictionary."""
    def __init__(self, net):
        super().__init__()
        self.net = net
    def inference(self, data):
        out = self.net(data["input"])
        return out[:, :1].abs() + 1, None, {"prediction_normal": out}

class Pictures:
    """As DSINE: prepares pictures itself, one at a time."""
    def infer(self, picture):
        assert picture.dtype == "uint8" and picture.ndim == 3
        return torch.from_numpy(picture).permute(2, 0, 1)[None] / 255 - 0.4
'''
NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, seed, out):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = torch.nn.Conv2d(3, out, 3, padding=1)
        self.drop = torch.nn.Dropout(0.5)
    def forward(self, x):
        return self.drop(self.conv(x))
"""
ANSWERS = "task=normals&frame=x-right,y-down,z-forward&size=32&scale=255&mean=0.5&std=0.2,0.3,0.4&channels=3"


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in a folder; its modules are forgotten afterwards."""
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "hubconf.py").write_text(HUBCONF)
    (folder / "hub_tiny_net.py").write_text(NET)
    monkeypatch.delitem(sys.modules, "hub_tiny_net", raising=False)
    yield folder
    sys.modules.pop("hub_tiny_net", None)


def by_hand(folder: Path, picture: np.ndarray, seed: int = 0) -> np.ndarray:
    """The network's raw output [4,32,32], without clipzoo."""
    net = torch.hub.load(str(folder), "normals", source="local", seed=seed).eval()
    resized = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BILINEAR), np.float32) / 255
    values = (resized - 0.5) / np.float32([0.2, 0.3, 0.4])
    with torch.inference_mode():
        return net(torch.from_numpy(values).permute(2, 0, 1)[None])[0].numpy()


def opened(uri: str) -> experts.Expert:
    expert = experts.create(uri)
    expert.load()
    return expert


def unit(raw: np.ndarray) -> np.ndarray:
    turned = raw[:3] * np.array([1, -1, -1])[:, None, None]
    return turned / np.linalg.norm(turned, axis=0)


def test_code_runs_only_if_its_repository_is_trusted(repo):
    (repo / "hubconf.py").write_text("raise SystemExit('this code has run')")
    for uri in (f"torchhub:{repo}#normals?{ANSWERS}", f"torchhub:{repo}#normals?{ANSWERS}&trust_repo=0"):
        with pytest.raises(ExpertError, match=r"runs the Python code(.|\n)*add \?trust_repo=1"):
            experts.create(uri)
    card = repo / "card.yaml"
    card.write_text(yaml.safe_dump({"repo": ".", "entry": "normals", "trust_repo": True}))
    with pytest.raises(ExpertError, match="trust_repo=1"):  # a card that was sent to you cannot trust for you
        experts.create(f"torchhub:{card}")


def test_normals_are_those_of_the_model_by_hand(repo):
    expert = opened(f"torchhub:{repo}#normals?{ANSWERS}&arguments.seed=3&trust_repo=1")
    pictures = [image(i, (20, 30)) for i in range(3)]
    for label, picture in zip(expert.predict(pictures), pictures, strict=True):
        assert label.vectors == pytest.approx(unit(by_hand(repo, picture, seed=3)), abs=1e-5)
        tasks.get("normals").check(label, expert.card.convention)
        assert expert.predict([picture])[0].vectors == pytest.approx(label.vectors, abs=1e-6)
    told = expert.card.preprocessing
    assert told["input"]["std"] == [0.2, 0.3, 0.4]
    assert told["arguments"] == {"seed": 3}
    assert told["trust_repo"] is True


def test_a_card_reaches_into_what_a_model_returns(repo):
    card = {
        "repo": "repo", "entry": "nested", "method": "inference", "key": "input", "task": "normals",
        "input": {"size": 32, "scale": 255, "mean": 0.5, "std": [0.2, 0.3, 0.4]},
        "output": {"name": "2.prediction_normal", "channels": 3, "frame": "x-right,y-down,z-forward"},
    }  # fmt: skip
    path = repo.parent / "card.yaml"
    path.write_text(yaml.safe_dump(card))
    picture = image(1, (32, 32))
    (label,) = opened(f"torchhub:{path}?trust_repo=1").predict([picture])
    assert label.vectors == pytest.approx(unit(by_hand(repo, picture)), abs=1e-5)
    depth = {**card, "task": "depth", "kind": "affine-depth", "along": "z", "output": {"index": 0}}
    path.write_text(yaml.safe_dump(depth))
    (label,) = opened(f"torchhub:{path}?trust_repo=1").predict([picture])
    assert label.values == pytest.approx(abs(by_hand(repo, picture)[0]) + 1, abs=1e-5)
    path.write_text(yaml.safe_dump({**card, "output": {**card["output"], "name": "2.normals"}}))
    with pytest.raises(ExpertError, match="no 'normals' in a mapping of prediction_normal"):
        opened(f"torchhub:{path}?trust_repo=1").predict([picture])
    path.write_text(yaml.safe_dump({**depth, "output": {}}))
    with pytest.raises(ExpertError, match=r"returns 3 values \(Tensor, NoneType, dict\)"):
        opened(f"torchhub:{path}?trust_repo=1").predict([picture])


def test_a_model_that_prepares_pictures_itself(repo):
    uri = f"torchhub:{repo}#pictures?trust_repo=1&task=normals&frame=x-left,y-up,z-toward&takes=image&method=infer"
    pictures = [image(i, (7, 9)) for i in range(2)]
    for label, picture in zip(opened(uri).predict(pictures), pictures, strict=True):
        raw = (np.moveaxis(picture, 2, 0) / 255 - 0.4) * np.array([-1, 1, 1])[:, None, None]
        assert label.vectors == pytest.approx(raw / np.linalg.norm(raw, axis=0), abs=1e-5)


def test_a_letterboxed_picture_keeps_its_aspect(repo):
    """The label shows the picture alone, pixel by pixel where it was not scaled."""
    expert = opened(f"torchhub:{repo}#normals?{ANSWERS}&fit=letterbox&trust_repo=1")
    picture = image(5, (12, 32))
    (label,) = expert.predict([picture])
    canvas = np.zeros((3, 32, 32), np.float32)
    values = (picture.astype(np.float32) / 255 - 0.5) / np.float32([0.2, 0.3, 0.4])
    canvas[:, 10:22] = values.transpose(2, 0, 1)
    net = torch.hub.load(str(repo), "normals", source="local").eval()
    with torch.inference_mode():
        raw = net(torch.from_numpy(canvas)[None])[0, :, 10:22].numpy()
    assert label.vectors == pytest.approx(unit(raw), abs=1e-5)


def test_the_version_is_part_of_the_card(repo):
    uri = f"torchhub:{repo}#normals?{ANSWERS}&trust_repo=1"
    before = experts.create(uri).card
    assert before.revision.startswith("files ")
    (repo / "__pycache__").mkdir()
    (repo / "__pycache__" / "x.pyc").write_bytes(b"0")
    assert experts.create(uri).card == before
    (repo / "hub_tiny_net.py").write_text(NET + "# changed\n")
    assert experts.create(uri).card.revision != before.revision
    weights = repo.parent / "w.pt"
    weights.write_bytes(b"weights")
    assert len(experts.create(f"{uri}&arguments.seed={weights}").card.weights_sha256) == 64


def test_a_repository_that_torch_has_fetched_needs_no_network(repo, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(repo.parent))
    cached = repo.parent / "hub" / "some_normals_v1.0_x"
    cached.parent.mkdir()
    repo.rename(cached)
    expert = opened(f"torchhub:some/normals:v1.0/x#normals?{ANSWERS}&trust_repo=1")
    assert expert.predict([image(0)])
    assert expert.card.revision.startswith("v1.0/x files ")

    def refused(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", refused)
    with pytest.raises(ExpertError, match=r"cannot fetch some/normals:v2 from GitHub(.|\n)*clone it"):
        experts.create(f"torchhub:some/normals:v2#normals?{ANSWERS}&trust_repo=1")


def test_two_repositories_with_modules_of_one_name(repo, tmp_path):
    opened(f"torchhub:{repo}#normals?{ANSWERS}&trust_repo=1")
    opened(f"torchhub:{repo}#nested?{ANSWERS}&trust_repo=1")
    other = tmp_path / "other"
    other.mkdir()
    for file in repo.glob("*.py"):
        (other / file.name).write_text(file.read_text())
    with pytest.raises(ExpertError, match="has a module 'hub_tiny_net', and this process has loaded another one"):
        opened(f"torchhub:{other}#normals?{ANSWERS}&trust_repo=1")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "task: Field required"),
        ("task=normals&size=32&scale=255&mean=0&std=1", "need output.frame"),
        ("task=normals&frame=x-right,y-down,z-forward", "input.size is missing"),
        ("task=normals&frame=x-right,y-down,z-forward&size=32&scale=255&mean=0", "input.std is missing"),
        ("task=depth&size=32&scale=255&mean=0&std=1", "needs kind"),
        ("task=depth&kind=metric&size=32&scale=255&mean=0&std=1", "needs along"),
        (f"{ANSWERS}&color=1", "color: Extra inputs"),
        (f"{ANSWERS}&takes=image", "passes images unchanged"),
        (f"{ANSWERS.replace('size=32', 'size=none')}&fit=letterbox", "needs a size"),
    ],
)
def test_what_is_not_answered_is_asked(repo, query, message):
    with pytest.raises(ExpertError, match=message):
        experts.create(f"torchhub:{repo}#normals?trust_repo=1&{query}".rstrip("&"))


def test_text_that_looks_like_a_number_is_text(repo):
    uri = f"torchhub:{repo}#normals?task=segmentation&classes=no,1&size=32&scale=255&mean=0&std=1&trust_repo=1"
    made = experts.create(f"{uri}&name=1&revision=2&license=3.0&arguments.seed=4")
    assert made.card.convention.classes == ("no", "1")
    assert (made.spec.output.name, made.card.license, made.spec.arguments) == ("1", "3.0", {"seed": 4})
    assert made.card.revision.startswith("2 ")


def test_numbers_without_a_point_before_their_exponent_are_numbers(repo):
    answers = ANSWERS.replace("mean=0.5&std=0.2,0.3,0.4", "mean=5e-1,0,1E-2&std=1e-1")
    spec = experts.create(f"torchhub:{repo}#normals?{answers}&trust_repo=1&arguments.scale=1e-3").spec
    assert spec.arguments == {"scale": 0.001}
    assert (spec.input.mean, spec.input.std) == ((0.5, 0.0, 0.01), (0.1, 0.1, 0.1))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("owner/repo#x", "the ref, a branch or tag"),
        ("nothing", "names no entry"),
        ("/no/card.yaml", "cannot read the card"),
    ],
)
def test_places_that_are_none(place, message):
    with pytest.raises(ExpertError, match=message):
        experts.create(f"torchhub:{place}?{ANSWERS if '#' in place else ''}&trust_repo=1".replace("?&", "?"))


def test_an_entry_that_fails_is_told(repo):
    for entry, message in (("broken", "raised OSError: no such checkpoint"), ("nix", "Cannot find callable nix")):
        with pytest.raises(ExpertError, match=message):
            opened(f"torchhub:{repo}#{entry}?{ANSWERS}&trust_repo=1")
    (repo / "hubconf.py").unlink()
    with pytest.raises(ExpertError, match=r"has no hubconf\.py"):
        experts.create(f"torchhub:{repo}#normals?{ANSWERS}&trust_repo=1")


def test_frames_of_families_can_be_read():
    """A family's frame is one that a URI may answer with."""
    normals = [family for family in torchhub.FAMILIES if family.task == "normals"]
    assert len(normals) == 3
    for family in normals:
        torchhub.Output(frame=family.gives.split()[1].rstrip(",:"))


def test_the_recipe_the_page_and_the_table_agree_about_dsine() -> None:
    """And the recipe is refused as it stands: whoever runs it says that the repository is trusted."""
    root = Path(__file__).parent.parent
    columns = recipe.load(root / "recipes" / "cliptex-cc3m.yaml", trust=True).columns
    (uri,) = [column.expert for column in columns if column.expert and "DSINE" in column.expert]
    with pytest.raises(ExpertError, match="runs the Python code of that repository"):
        experts.create(uri)
    place, _, query = uri.removeprefix("torchhub:").partition("?")
    card, _ = torchhub._card(place, torchhub.split(query))
    (family,) = [one for one in torchhub.FAMILIES if one.name == "DSINE"]
    assert card.task == family.task
    assert card.output.frame in family.gives
    assert uri.partition("#")[2] in (root / "docs" / "experts.md").read_text()
