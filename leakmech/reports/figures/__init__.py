"""Figures: one message each, drawn from tables of plain columns; they do not know which study a table comes from.

What is the same in every function:

frame
    The table. A missing column, no rows, two rows for one place of the drawing or a value that is not a number are
    refused by name with FigureError, before anything is drawn (:mod:`leakmech.reports.figures.frames`).
path
    Where to save; its suffix is ignored. PNG, PDF and the drawn rows as CSV are written, and their paths returned.
quantity
    What a value is, with its unit: the label of an axis or of the colours.
title, subtitle
    What is seen (None: the figure's own finding); of which model and data.
"""
