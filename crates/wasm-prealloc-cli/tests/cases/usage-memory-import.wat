;; RUN: rewrite %s -o %t --memory-import drop
(module (memory 1))
