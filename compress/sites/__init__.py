"""Where a model can be compressed: its sites, their names, and rules that pick them."""

from compress.sites.find import find_sites as find_sites
from compress.sites.find import find_sites_in as find_sites_in
from compress.sites.find import flat_paths as flat_paths
from compress.sites.find import flatten_parameters as flatten_parameters
from compress.sites.find import parameter_paths as parameter_paths
from compress.sites.find_groups import Traced as Traced
from compress.sites.find_groups import find_groups as find_groups
from compress.sites.find_groups import parameter_names as parameter_names
from compress.sites.find_groups import trace_axes as trace_axes
from compress.sites.groups import Group as Group
from compress.sites.groups import Groups as Groups
from compress.sites.groups import Member as Member
from compress.sites.patterns import matching_sites as matching_sites
from compress.sites.site import Site as Site
from compress.sites.site import Sites as Sites
