;; RUN: rewrite %s -o %t --export-commit commit
(component
  (core module (memory 1)))
