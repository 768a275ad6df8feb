"""The quality of samples, by the Frechet Inception distance and the Inception score; the likelihood of images."""

from tinyddpm.evaluation.bound import bound, learned_shares, ode_bits
from tinyddpm.evaluation.fid import Statistics, fid
from tinyddpm.evaluation.inception_score import inception_score
from tinyddpm.evaluation.measure import extractor, measure, nearest, pixels
