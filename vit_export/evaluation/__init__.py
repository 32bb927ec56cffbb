"""Accuracy on whole data sets: shards of images, rows of answers, figures that follow from the rows alone."""
