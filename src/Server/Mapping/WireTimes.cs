using Google.Protobuf.WellKnownTypes;

namespace FramePin.Server.Mapping;

/// <summary>Times of the wire.</summary>
internal static class WireTimes
{
    /// <summary>Seconds of the longest duration that is read as it is; a longer one is read as this.</summary>
    private const long LongestSeconds = 1L << 32;

    /// <summary>Seconds of the longest Duration (google/protobuf/duration.proto): 10,000 years.</summary>
    private const long MostSeconds = 315_576_000_000;

    private const int NanosecondsPerTick = 100;

    /// <summary>
    /// A duration of a request; zero when it is absent. INVALID_ARGUMENT for one that is negative, malformed or longer
    /// than a Duration may be, which other programs cannot read.
    /// </summary>
    public static TimeSpan Read(Duration? duration, string field)
    {
        if (duration is null) return TimeSpan.Zero;
        if (duration.Seconds is < 0 or > MostSeconds || duration.Nanos is < 0 or > 999_999_999)
            throw Refusals.Bad(
                field, "must have 0 to 315,576,000,000 seconds and 0 to 999,999,999 nanoseconds");
        return TimeSpan.FromSeconds(Math.Min(duration.Seconds, LongestSeconds))
            + TimeSpan.FromTicks(duration.Nanos / NanosecondsPerTick);
    }

    public static Duration ToWire(TimeSpan time) => Duration.FromTimeSpan(time);

    /// <summary>A time in UTC; null for the default value, which means never.</summary>
    public static Timestamp? ToWire(DateTime utc) => ToWire(new DateTimeOffset(utc, TimeSpan.Zero));

    /// <summary>A time of the daemon's clock; null for the default value, which means never.</summary>
    public static Timestamp? ToWire(DateTimeOffset time) => time == default ? null : Timestamp.FromDateTimeOffset(time);
}
