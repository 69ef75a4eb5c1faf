"""Colours and markers of all figures; apart from `report`, which needs torch."""

from __future__ import annotations

# Okabe and Ito's palette: colour-blind readers can distinguish it, and in grey the markers help.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX<>*"
