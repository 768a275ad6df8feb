"""The quality of samples: the Frechet Inception distance and the Inception score."""

from tinyddpm.evaluation.fid import Statistics, fid
from tinyddpm.evaluation.inception_score import inception_score
from tinyddpm.evaluation.measure import extractor, measure, nearest, pixels
