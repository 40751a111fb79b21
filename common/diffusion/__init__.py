"""Schedules, samplers, guidance and the plan executor."""
