// One thread: `#pragma omp` is not compiled here, so that a case does the same whenever it runs.
// Races are tests/test_races.py's.
#pragma once

inline int omp_get_thread_num() { return 0; }
inline int omp_get_num_threads() { return 1; }
