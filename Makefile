# For those who type make; everything is in make.py, which needs Python alone.
.PHONY: search test check
search test check:
	python3 make.py $@
