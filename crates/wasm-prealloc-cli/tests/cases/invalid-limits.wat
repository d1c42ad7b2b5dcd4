;; RUN: rewrite %s -o %t --validate changed
(module (memory 5 3))
