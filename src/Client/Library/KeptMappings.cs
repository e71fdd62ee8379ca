using FramePin.Client.Native;
using FramePin.V1;

namespace FramePin.Client;

/// <summary>
/// Mappings of scattered frames, kept when nobody looks through them any more: the buffers of a stream come back, and
/// the same frames are then in place without a call of the kernel's and without page faults.
/// </summary>
/// <remarks>
/// Any thread. Keeps the latest used, within bounds; holds no frame back: those are the daemon's to give out.
/// </remarks>
internal sealed class KeptMappings : IDisposable
{
    private const int MappingsMax = 16;

    /// <summary>Each run is a mapping of the kernel's, of which a process may have 65,530 (vm.max_map_count).</summary>
    private const int RunsMax = 8192;

    private readonly Lock _lock = new();

    /// <summary>The latest used last.</summary>
    private readonly List<(FrameRuns Runs, bool IsWritable, LocalMapping Mapping)> _kept = [];
    private bool _isDisposed;

    /// <summary>
    /// A view of the frames in their order: of a mapping that is kept, or of one that <paramref name="map"/> makes.
    /// </summary>
    public LocalMapping Get(FrameRuns runs, bool isWritable, Func<LocalMapping> map)
    {
        if (runs.FirstPfns.Count > RunsMax / 2) return map();
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_isDisposed, this);
            var at = _kept.FindLastIndex(kept => kept.IsWritable == isWritable && kept.Runs.Equals(runs));
            var found = at < 0 ? (runs, isWritable, map()) : _kept[at];
            if (at >= 0) _kept.RemoveAt(at);
            _kept.Add(found);
            var view = found.Item3.Share();
            while (_kept.Count > MappingsMax || _kept.Sum(static kept => kept.Runs.FirstPfns.Count) > RunsMax)
            {
                _kept[0].Mapping.Dispose();
                _kept.RemoveAt(0);
            }

            return view;
        }
    }

    public void Dispose()
    {
        lock (_lock)
        {
            _isDisposed = true;
            foreach (var (_, _, mapping) in _kept) mapping.Dispose();
            _kept.Clear();
        }
    }
}
