.PHONY: demo test bench check env
env:
	@true
