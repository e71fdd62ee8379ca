namespace FramePin.Client;

public sealed partial class SpaceMirror
{
    /// <summary>The bytes during a visit of one thread. To be disposed once.</summary>
    public readonly ref struct View
    {
        private readonly SpaceMirror? _mirror;

        internal View(SpaceMirror mirror) => _mirror = mirror;

        /// <summary>The range, from its start on. The stores of others appear here at once, and the reverse.</summary>
        public Span<byte> Bytes => Mirror._mapping.Bytes;

        private SpaceMirror Mirror =>
            _mirror ?? throw new InvalidOperationException("this view was not entered");

        /// <summary>The page that holds a byte is the space's, and not just zeroes of this process.</summary>
        /// <param name="offset">The byte, counted from the start of the range.</param>
        public bool IsMapped(ulong offset) => Mirror.IsMapped(offset);

        /// <summary>Leaves.</summary>
        public void Dispose() => _mirror?._gate.Leave();
    }

    /// <summary>A visit that may span awaits.</summary>
    /// <remarks>Any thread, one at a time. Disposing it more than once leaves once.</remarks>
    public sealed class Visit : IDisposable
    {
        private readonly SpaceMirror _mirror;
        private bool _isOver;

        internal Visit(SpaceMirror mirror) => _mirror = mirror;

        /// <summary>The range, from its start on. The stores of others appear here at once, and the reverse.</summary>
        public Span<byte> Bytes
        {
            get
            {
                ObjectDisposedException.ThrowIf(_isOver, this);
                return _mirror._mapping.Bytes;
            }
        }

        /// <summary>The page that holds a byte is the space's, and not just zeroes of this process.</summary>
        /// <param name="offset">The byte, counted from the start of the range.</param>
        public bool IsMapped(ulong offset)
        {
            ObjectDisposedException.ThrowIf(_isOver, this);
            return _mirror.IsMapped(offset);
        }

        /// <summary>Leaves.</summary>
        public void Dispose()
        {
            if (Interlocked.Exchange(ref _isOver, true)) return;
            _mirror._gate.Leave();
        }
    }
}
