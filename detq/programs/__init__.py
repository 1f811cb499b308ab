"""detq and other programs under measurement, each in a process of its own."""
