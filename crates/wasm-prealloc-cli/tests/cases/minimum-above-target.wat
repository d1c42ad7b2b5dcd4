;; RUN: rewrite %s -o %t --pages 16
(module (memory 17))
