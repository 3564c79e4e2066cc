"""Files of published datasets: pictures with label files, depth, and MATLAB files."""
