"""Drawn identities: reproducible, varied, indexable."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from flashportrait.avatars import Identity, sample_identities


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows_of(identity: Identity) -> torch.Tensor:
    """All numbers of each identity.  [n d]"""
    return torch.cat([getattr(identity, field.name).reshape(len(identity), -1) for field in fields(identity)], dim=1)


def test_same_seed_same_people():
    first, again, other = (
        sample_identities(5, seeded(3)),
        sample_identities(5, seeded(3)),
        sample_identities(5, seeded(4)),
    )
    assert torch.equal(rows_of(first), rows_of(again))
    assert not torch.equal(rows_of(first), rows_of(other))


def test_no_two_alike():
    rows = rows_of(sample_identities(200, seeded(0)))
    distance = torch.cdist(rows, rows) + torch.eye(200)
    assert distance.min() > 0.1


def test_every_field_has_one_row_per_identity_and_is_finite():
    identity = sample_identities(7, seeded(1))
    for field in fields(identity):
        value = getattr(identity, field.name)
        assert value.shape[0] == 7, field.name
        assert value.dtype == torch.float32, field.name
        assert value.isfinite().all(), field.name


def test_colors_and_share_of_glasses():
    identity = sample_identities(500, seeded(2))
    for name in ("skin_color", "hair_color", "lip_color", "iris_color", "clothes_color", "background_top"):
        color = getattr(identity, name)
        assert color.shape == (500, 3)
        assert color.min() >= 0
        assert color.max() <= 1
    assert 0.1 < identity.glasses.mean() < 0.4
    brightness = identity.skin_color.mean(dim=1)
    assert brightness.min() < 0.3
    assert brightness.max() > 0.75


def test_indexing_repeating_and_expanding():
    identity = sample_identities(4, seeded(5))
    rows = rows_of(identity)
    assert torch.equal(rows_of(identity[2]), rows[2:3])
    assert torch.equal(rows_of(identity[1:3]), rows[1:3])
    assert torch.equal(rows_of(identity[torch.tensor([3, 0])]), rows[[3, 0]])
    assert torch.equal(rows_of(identity.repeat(2)), rows[[0, 0, 1, 1, 2, 2, 3, 3]])
    assert torch.equal(rows_of(identity[1].expand(3)), rows[[1, 1, 1]])


def test_an_identity_cannot_be_changed():
    identity = sample_identities(1, seeded(6))
    with pytest.raises(AttributeError):
        identity.age = torch.zeros(1)
