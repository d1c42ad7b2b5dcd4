;; RUN: rewrite %s -o %t --pages 65537
(module (memory 17))
