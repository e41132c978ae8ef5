"""Everything after scoring: rules, quotas, rotation, diversity, exposure bounds and exploration. Pure."""
