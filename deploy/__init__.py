"""Provisioning of a ScyllaDB cluster, and what is wrong with one."""
