;; RUN: rewrite %s -o %t --features all
(module (memory 100 (pagesize 1)))
