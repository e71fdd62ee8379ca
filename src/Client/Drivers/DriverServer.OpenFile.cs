namespace FramePin.Drivers;

/// <summary>The open files of a driver's process.</summary>
public sealed partial class DriverServer
{
    /// <summary>A file and the calls that are under way on it.</summary>
    private sealed class OpenFile : IDisposable
    {
        /// <summary>
        /// Answers whose gifts can still be taken back. The daemon says soon that nobody takes one, or never.
        /// </summary>
        private const int MostGifts = 64;

        private readonly Lock _lock = new();
        private readonly CancellationTokenSource _killed = new();
        private readonly TaskCompletionSource _idle = new(TaskCreationOptions.RunContinuationsAsynchronously);

        /// <summary>Calls under way, and whether nobody takes the answer. Guarded by the lock.</summary>
        private readonly Dictionary<ulong, bool> _calls = [];

        /// <summary>What answers gave away, oldest first. Guarded by the lock.</summary>
        private readonly List<(ulong Call, Func<Task> TakeBack)> _gifts = [];
        private readonly TaskCompletionSource _released = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private bool _isEnding;

        public OpenFile() => Killed = _killed.Token;

        public DriverFile? File { get; set; }

        /// <summary>Cancelled when the file is released: who waits in it leaves.</summary>
        public CancellationToken Killed { get; }

        public void Dispose() => _killed.Dispose();

        /// <summary>Completes after file_operations.release, or what it threw.</summary>
        public Task IsReleased => _released.Task;

        public void Released() => _released.TrySetResult();

        /// <summary>A call begins. False: the file's end has begun.</summary>
        public bool TryEnter(ulong call)
        {
            lock (_lock)
            {
                if (_isEnding) return false;
                _calls.Add(call, false);
                return true;
            }
        }

        /// <summary>Its end begins: no call enters any more. False: it had begun.</summary>
        public bool TryEnd()
        {
            lock (_lock) return !_isEnding && (_isEnding = true);
        }

        /// <summary>The call is over. True: nobody takes its answer.</summary>
        public bool Leave(ulong call, Func<Task>? takeBack)
        {
            lock (_lock)
            {
                _calls.Remove(call, out var isAbandoned);
                if (!isAbandoned && takeBack is not null)
                {
                    if (_gifts.Count == MostGifts) _gifts.RemoveAt(0);
                    _gifts.Add((call, takeBack));
                }

                if (_isEnding && _calls.Count == 0) _idle.TrySetResult();
                return isAbandoned;
            }
        }

        /// <summary>
        /// Nobody takes the answer of a call. What it gave away, if it is over; otherwise <see cref="Leave"/> tells.
        /// </summary>
        public Func<Task>? Abandon(ulong call)
        {
            lock (_lock)
            {
                if (_calls.ContainsKey(call))
                {
                    _calls[call] = true;
                    return null;
                }

                var place = _gifts.FindIndex(gift => gift.Call == call);
                if (place < 0) return null;
                var takeBack = _gifts[place].TakeBack;
                _gifts.RemoveAt(place);
                return takeBack;
            }
        }

        /// <summary>Signals who is in it and waits until nobody is. <see cref="TryEnd"/> was before.</summary>
        public Task EndAsync()
        {
            lock (_lock)
            {
                if (_calls.Count == 0) _idle.TrySetResult();
            }

            _killed.Cancel();
            return _idle.Task;
        }
    }
}
