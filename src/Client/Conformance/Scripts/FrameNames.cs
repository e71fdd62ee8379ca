using System.Globalization;

namespace FramePin.Conformance.Scripts;

/// <summary>
/// Numbers frames by the order in which they are seen, so that two systems with different frame numbers compare. A
/// frame keeps its number for as long as it is seen; one that was freed and taken anew is a new one.
/// </summary>
public sealed class FrameNames
{
    private Dictionary<ulong, int> _names = [];
    private Dictionary<ulong, int> _seen = [];
    private int _next;

    /// <summary>The frame of the zero page; it is called "z".</summary>
    public ulong ZeroPage { get; set; } = ulong.MaxValue;

    /// <summary>
    /// Frame numbers are not to be had: every frame is called "p", also by a system that knows better.
    /// </summary>
    public bool HidesFrames { get; set; }

    public void Begin(bool keepsNames)
    {
        (_names, _seen) = (_seen, _names);
        _seen.Clear();
        if (keepsNames) return;
        _names.Clear();
        _next = 0;
    }

    /// <summary>The name of <paramref name="pfn"/>, and whether this snapshot sees it for the first time.</summary>
    public string Of(ulong pfn, out bool isFirst)
    {
        isFirst = HidesFrames;
        if (HidesFrames) return "p";
        if (pfn == ZeroPage) return "z";
        if (_seen.TryGetValue(pfn, out var name)) return name.ToString(CultureInfo.InvariantCulture);
        isFirst = true;
        if (!_names.TryGetValue(pfn, out name)) name = _next++;
        _seen.Add(pfn, name);
        return name.ToString(CultureInfo.InvariantCulture);
    }
}
