"""Plots and grids of images, as PIL images."""
