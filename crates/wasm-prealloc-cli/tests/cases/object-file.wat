;; RUN: rewrite %s -o %t
(module
  (import "env" "__linear_memory" (memory 0))
  (@custom "linking" (after import) "\02"))
