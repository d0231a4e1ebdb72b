"""Scenes drawn together, as on a GPU, are the scenes drawn one by one."""

from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from flashportrait.avatars.identity import Identity, sample_identities
from flashportrait.errors import UserError
from flashportrait.rig.mesh import average_landmarks
from flashportrait.rig.photo import PhotoRig
from flashportrait.rig.pose import GUIDE_REACH, head_pose_limits
from flashportrait.training.data import AvatarScenes, Scenes


def test_people_drawn_in_one_pass_are_those_drawn_alone():
    source = AvatarScenes()
    alone = source.scenes(3, 5, 64, torch.Generator().manual_seed(5))
    together = source._scenes(3, 5, 64, torch.Generator().manual_seed(5))
    for field in fields(Scenes):
        parts = (getattr(scenes, field.name) for scenes in (alone, together))
        torch.testing.assert_close(*parts, rtol=0, atol=0, equal_nan=True)


def test_joined_identities_are_their_parts():
    three = sample_identities(3, torch.Generator().manual_seed(1))
    joined = Identity.join([three[0], three[1:]])
    for field in fields(Identity):
        assert torch.equal(getattr(joined, field.name), getattr(three, field.name)), field.name


def test_scenes_of_an_older_version_are_refused(tmp_path):
    frames, rows = torch.zeros(1, 5, 3, 16, 16), torch.zeros(1, 5, 57)
    scenes = Scenes.from_pictures(frames[:, 0], frames, frames, torch.ones(1), rows, torch.ones(1, 5, 1, 16, 16))
    old = {field.name: getattr(scenes, field.name) for field in fields(Scenes) if field.name != "flow"}
    save_file(old, tmp_path / "old.safetensors")
    for read in (Scenes.load, lambda path: Scenes.read(path, 0)):
        with pytest.raises(UserError, match=r"old.safetensors lacks flow.*anew"):
            read(tmp_path / "old.safetensors")


@pytest.mark.parametrize("together", [1, 2, 5])
def test_turning_is_the_same_in_passes_of_any_length(together):
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(3, 96, 96, generator=generator)
    rig = PhotoRig(image, average_landmarks((48.0, 50.0), 50.0), torch.zeros(57))
    poses = 0.2 * torch.randn(5, 6, generator=generator)
    lowest, highest = head_pose_limits(rig.own_row, GUIDE_REACH)
    limited = torch.maximum(torch.minimum(poses, highest), lowest)
    turned = torch.cat([rig._turn(part, 48, 48) for part in limited.split(together)])
    torch.testing.assert_close(turned, rig.draw(F.pad(poses, (0, 51)), 48, 0), rtol=0, atol=0)
