"""MediaPipe's 478 landmarks of a face by place."""

from __future__ import annotations

LANDMARKS = 478
"""Landmarks of a face: 468 on the mesh, then five for the right iris and five for the left."""
MESH_LANDMARKS = 468
INNER_LIPS_UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
INNER_LIPS_LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
OUTER_LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
UPPER_LIDS = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (263, 466, 388, 387, 386, 385, 384, 398, 362))
"""Upper lid contours of the subject's right and left eye, outer corner first."""
LID_CREASES = ((247, 30, 29, 27, 28, 56, 190), (467, 260, 259, 257, 258, 286, 414))
"""The row of landmarks above the upper lids, outermost first; one above each lid landmark but the corners."""
LOWER_LIDS = ((33, 7, 163, 144, 145, 153, 154, 155, 133), (263, 249, 390, 373, 374, 380, 381, 382, 362))
BROWS = ((70, 63, 105, 66, 107, 55, 65, 52, 53, 46), (300, 293, 334, 296, 336, 285, 295, 282, 283, 276))
"""Around the subject's right and left brow."""
IRISES = ((468, 469, 470, 471, 472), (473, 474, 475, 476, 477))
"""Iris landmarks of the subject's right and left eye, centre first."""
