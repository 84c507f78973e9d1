"""What tests share: fakes, virtual time, engines, processes."""
