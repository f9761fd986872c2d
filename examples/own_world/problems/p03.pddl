(define (problem p03) (:domain painter)
  (:objects hall kitchen bath - room white blue - colour)
  (:init
    (door hall kitchen) (door kitchen hall)
    (door kitchen bath) (door bath kitchen)
    (pot white bath) (pot blue hall) (sink bath)
    (in kitchen) (clean)
    (bare hall) (bare kitchen) (wall bath white))
  (:goal (and (wall hall blue) (wall bath white))))
