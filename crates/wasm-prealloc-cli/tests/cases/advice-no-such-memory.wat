;; RUN: rewrite %s -o %t --pages 7=5
(module (memory 1))
