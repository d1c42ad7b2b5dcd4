;; RUN: rewrite %s -o %t --export-commit commit --pages 2
(module
  (memory 1 1)
  (data (i32.const 0) "kept"))
