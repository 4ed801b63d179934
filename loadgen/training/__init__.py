"""Training of models: the selector of tracks against truth, the classifier of events against samples (docs/training.md).

samples.py   a sample -> rows of features with labels
split.py     which events train, validate, test
perceptron.py, forest.py   rows -> weights
calibration.py, working_points.py   scores that are probabilities, and thresholds for an efficiency
measure.py, importance.py   what the model does on events it has not seen
job.py       all of it in order, into a model package and a report
"""
